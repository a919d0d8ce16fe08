"""Which path is answered by what: a table, since there are ten paths and every event of a stream passes here.

A framework's router wraps each `send` in calls of its own, for a tenth of what a streamed token costs.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from octavo.service.openai.endpoint import Endpoint
from octavo.service.openai.errors import refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from octavo.service.openai.exchange import Exchange, Receive, Scope, Send

    Handle = Callable[[Exchange], Awaitable[None]]


class Routes:
    """An ASGI application. A path that ends with a slash stands for all below it, at least one character."""

    def __init__(self, handles: Mapping[tuple[str, str], Handle], max_body_size: int) -> None:
        """handles: by method and path. A GET route answers HEAD too."""
        self._routes: dict[str, dict[str, Endpoint]] = {}
        for (method, path), handle in handles.items():
            methods = self._routes.setdefault(path, {})
            methods[method] = Endpoint(handle, max_body_size)
            if method == "GET":
                methods["HEAD"] = methods[method]
        self._trees = [path for path in self._routes if path.endswith("/")]
        self._max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']} is not spoken here")
        path, method = scope["path"], scope["method"]
        route = self._route(path)
        endpoint = self._routes[route].get(method) if route else None
        if endpoint is None:
            endpoint = Endpoint(self._nothing(route, method, path), self._max_body_size)
        else:
            scope["endpoint"], scope["route"] = endpoint, route
        await endpoint(scope, receive, send)

    def _route(self, path: str) -> str | None:
        if path in self._routes and path not in self._trees:
            return path
        return next((tree for tree in self._trees if path.startswith(tree) and path != tree), None)

    def _nothing(self, route: str | None, method: str, path: str) -> Handle:
        async def refuse(_: Exchange) -> None:
            if route is None:
                raise refused(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")
            allowed = ", ".join(sorted(self._routes[route]))
            message = f"{method} is not a method of {path}, but {allowed}"
            raise refused(HTTPStatus.METHOD_NOT_ALLOWED, message, {"allow": allowed})

        return refuse
