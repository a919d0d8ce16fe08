"""A small Kubernetes API server: lists, watches and status applies, with the ways in which those fail."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

from aiohttp import web

from octavo.service.gateway.kubernetes.access import Access
from octavo.service.gateway.kubernetes.api import Api

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Plural, namespace and name."""


class ApiServer:
    """Serves on a port of this machine. A change gets the next resource version; all are kept for watches.

    oldest: the first version that a watch may still begin from. stalled: watches stay open without a word.
    """

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.oldest = 0
        self.stalled = False
        self.token = ""
        self.lists = 0
        self.watches = 0
        self.applied: list[tuple[str, str, Object]] = []
        """Name, field manager and body of each status apply."""
        self.port = 0
        self._versions = itertools.count(1)
        self._version = 0
        self._events: list[tuple[int, str, str, Object]] = []
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def start(self) -> ApiServer:
        """On the port that it had before, if any."""
        app = web.Application(middlewares=[self._authenticate])
        app.router.add_get("/apis/{group}/{version}/{plural}", self._get)
        app.router.add_get("/apis/{group}/{version}/namespaces/{namespace}/{plural}", self._get)
        app.router.add_patch(
            "/apis/{group}/{version}/namespaces/{namespace}/{plural}/{name}/status", self._apply
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    def api(self, watch_grace: float = 5.0) -> Api:
        async def access() -> Access:
            return Access(f"http://127.0.0.1:{self.port}", token=self.token)

        return Api(access, watch_grace)

    async def put(self, plural: str, found: Object) -> None:
        metadata = found["metadata"]
        key = (plural, metadata["namespace"], metadata["name"])
        await self._change("MODIFIED" if key in self.objects else "ADDED", key, found)
        self.objects[key] = found

    async def delete(self, plural: str, namespace: str, name: str) -> None:
        key = (plural, namespace, name)
        await self._change("DELETED", key, self.objects.pop(key))

    async def forget_history(self) -> None:
        """As etcd's compaction does: whoever watches from before has to list again."""
        self.oldest = self._version = next(self._versions)
        async with self._changed:
            self._events.clear()
            self._changed.notify_all()

    async def _change(self, kind: str, key: Key, found: Object) -> None:
        self._version = next(self._versions)
        found["metadata"]["resourceVersion"] = str(self._version)
        async with self._changed:
            self._events.append((self._version, kind, key[0], found))
            self._changed.notify_all()

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        response: web.StreamResponse = await handler(request)
        return response

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await self._watch(request)
        self.lists += 1
        plural, namespace = request.match_info["plural"], request.match_info.get("namespace")
        found = [
            item
            for (kind, space, _), item in sorted(self.objects.items())
            if kind == plural and namespace in (None, space)
        ]
        at = int(request.query.get("continue", "0"))
        limit = int(request.query["limit"])
        metadata = {"resourceVersion": str(self._version)}
        if at + limit < len(found):
            metadata["continue"] = str(at + limit)
        return web.json_response({"items": found[at : at + limit], "metadata": metadata})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches += 1
        version = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)

        async def send(kind: str, found: Object) -> None:
            await response.write(json.dumps({"type": kind, "object": found}).encode() + b"\n")

        try:
            async with asyncio.timeout(None if self.stalled else float(request.query["timeoutSeconds"])):
                while True:
                    if version < self.oldest:
                        await send("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
                        return response
                    for at, kind, plural, found in tuple(self._events):
                        if at > version and plural == request.match_info["plural"] and not self.stalled:
                            await send(kind, found)
                            version = at
                    async with self._changed:
                        await self._changed.wait()
        except TimeoutError:
            await send("BOOKMARK", {"metadata": {"resourceVersion": str(self._version)}})
        return response

    async def _apply(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if (request.match_info["plural"], request.match_info["namespace"], name) not in self.objects:
            return _status(404, f"inferencemodels {name!r} not found")
        assert request.content_type == "application/apply-patch+yaml"
        self.applied.append((name, request.query["fieldManager"], await request.json()))
        return web.json_response({})


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)
