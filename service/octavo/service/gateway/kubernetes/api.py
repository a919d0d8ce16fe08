"""Calls of the API server: list, watch and apply, on objects as plain dicts.

The official client would do, but takes 0.5 s longer to import, more than all of the gateway's start may
take, for typed classes of every resource there is.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from octavo.service.gateway.kubernetes.access import Access

Object = dict[str, Any]

CONNECT_TIMEOUT = 5.0
"""Seconds to reach the server."""
ANSWER_TIMEOUT = 30.0
"""Seconds for an answer that is not a watch."""
PAGE = 500
"""Objects in one answer to a list."""


class ApiError(Exception):
    """The API server has refused, or could not be reached. `code` is HTTP's, or 0."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}" if code else message)
        self.code = code


class Api:
    """A connection to the API server, made when it is first needed. Every method raises ApiError."""

    def __init__(self, find_access: Callable[[], Awaitable[Access]], watch_grace: float = 5.0) -> None:
        """find_access: asked at first, and again when the credentials it gave are no longer accepted.

        watch_grace: seconds for which a watch may outlast the time that the server is told.
        """
        self._find_access = find_access
        self._watch_grace = watch_grace
        self._access: Access | None = None
        self._session: aiohttp.ClientSession | None = None
        self._connecting = asyncio.Lock()

    async def connect(self) -> None:
        """Finds out how to reach the server, without trying to. Raises what `find_access` does."""
        async with self._connecting:
            if self._session is None:
                self._access = await self._find_access()
                connector = aiohttp.TCPConnector(ssl=self._access.tls or False, limit=0)
                self._session = aiohttp.ClientSession(connector=connector)

    async def close(self) -> None:
        session, self._session, self._access = self._session, None, None
        if session is not None:
            await session.close()

    async def list(self, path: str, parameters: Mapping[str, str]) -> tuple[list[Object], str]:
        """All objects, and the resource version to watch from."""
        items: list[Object] = []
        query = {**parameters, "limit": str(PAGE)}
        while True:
            page = await self._json("GET", path, query)
            items += page.get("items") or ()
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return items, metadata["resourceVersion"]
            query["continue"] = metadata["continue"]

    async def watch(self, path: str, parameters: Mapping[str, str], seconds: int) -> AsyncIterator[Object]:
        """Events until the server ends them after `seconds`, as it is told to.

        If it does not, since it hangs or is cut off, they end `watch_grace` later with an ApiError.
        """
        query = {**parameters, "watch": "true", "timeoutSeconds": str(seconds)}
        patience = aiohttp.ClientTimeout(total=seconds + self._watch_grace, sock_connect=CONNECT_TIMEOUT)
        rest = b""
        try:
            async with await self._request("GET", path, query, patience) as response:
                # Not by lines: aiohttp refuses those longer than its buffer.
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in filter(None, lines):
                        yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiError(0, f"{type(error).__name__}: {error}") from None

    async def apply_status(self, path: str, manager: str, body: Object) -> None:
        """Server-side apply of an object's status under one field manager."""
        query = {"fieldManager": manager, "force": "true"}
        await self._json("PATCH", f"{path}/status", query, body)

    async def _json(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None = None
    ) -> Object:
        patience = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT, sock_connect=CONNECT_TIMEOUT)
        try:
            async with await self._request(method, path, query, patience, body) as response:
                answer: Object = await response.json()
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiError(0, f"{type(error).__name__}: {error}") from None

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        patience: aiohttp.ClientTimeout,
        body: Object | None = None,
    ) -> aiohttp.ClientResponse:
        await self.connect()
        assert self._session is not None
        assert self._access is not None
        headers = dict(self._access.headers)
        if body is not None:
            headers["Content-Type"] = "application/apply-patch+yaml"  # of which JSON is a part
        response = await self._session.request(
            method,
            self._access.url + path,
            params=query,
            headers=headers,
            data=None if body is None else json.dumps(body),
            timeout=patience,
            server_hostname=self._access.server_name,
            proxy=self._access.proxy,
        )
        if response.status >= 400:
            message = _message(await response.text())
            response.release()
            if response.status == 401:
                await self.close()
            raise ApiError(response.status, message)
        return response


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
