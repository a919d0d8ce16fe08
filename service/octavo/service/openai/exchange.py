"""One HTTP request and its answer, on bare ASGI: an answer is streamed with one call for each piece."""

from __future__ import annotations

import json
import re
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from octavo.service.openai.errors import refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from octavo.service.openai.errors import Refusal

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = "application/json"
EVENT_STREAM = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would keep the events until there are 4 KiB of them
}
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Exchange:
    """Once the answer's head is out (`started`), an error can be its status no more, and is an event."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_size: int) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = self.headers.get("x-request-id", "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.status: int | None = None
        self.ended = False
        self._max_body_size = max_body_size
        self._receive = receive
        self._send = send

    @property
    def started(self) -> bool:
        return self.status is not None

    async def body(self) -> bytes:
        """The whole body, which must be JSON by its type. Refused; `Gone` if the client left meanwhile.

        A web page may send any other type to any server without asking, this one on a laptop too.
        """
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON:
            message = f"header content-type: must be {JSON} (got {kind!r})"
            raise refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        if (encoding := self.headers.get("content-encoding", "identity")) != "identity":
            message = f"header content-encoding: is not supported (got {encoding!r})"
            raise refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        self._check_size(int(self.headers.get("content-length", 0)))
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise Gone
            parts.append(event.get("body", b""))
            size += len(parts[-1])
            self._check_size(size)
            more = event.get("more_body", False)
        return b"".join(parts)

    def _check_size(self, size: int) -> None:
        if size > self._max_body_size:
            message = f"the body must not be larger than {self._max_body_size} bytes"
            raise refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)

    async def until_gone(self) -> None:
        """Waits until the client has left, once its request is read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def respond(
        self, body: bytes, status: int = HTTPStatus.OK, content_type: str = JSON, **headers: str
    ) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self._start(status, {"content-type": content_type, "content-length": str(len(body)), **named})
        await self._end(body)

    async def respond_json(self, value: object) -> None:
        await self.respond(json.dumps(value).encode())

    async def write(self, events: str) -> None:
        """A piece of an event stream; returns when the client may be sent more."""
        if self.status is None:
            await self._start(HTTPStatus.OK, EVENT_STREAM)
        await self._send({"type": "http.response.body", "body": events.encode(), "more_body": True})

    async def end(self, events: str) -> None:
        """The last piece of an event stream."""
        if self.status is None:
            await self._start(HTTPStatus.OK, EVENT_STREAM)
        await self._end(events.encode())

    async def fail(self, refusal: Refusal) -> None:
        """Tells an error, as the answer or at the end of what has gone out of it."""
        if self.ended:
            return
        if self.started:
            await self._end(b"data: " + refusal.body + b"\n\n")
        else:
            length = str(len(refusal.body))
            await self._start(
                refusal.status, {"content-type": JSON, "content-length": length, **refusal.headers}
            )
            await self._end(refusal.body)

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        named = {**headers, "x-request-id": self.request_id}
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
        await self._send({"type": "http.response.start", "status": int(status), "headers": encoded})

    async def _end(self, body: bytes) -> None:
        self.ended = True
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


class Gone(Exception):
    """The client has left before its request was whole."""
