"""All models that the gateway knows, and the pools that serve them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from random import Random
from typing import TYPE_CHECKING

from octavo.engine import InvalidRequest, Violation
from octavo.service.gateway.pool import RETRY_SOON, Pool
from octavo.service.rpc.refusals import Unavailable, UnknownModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from octavo.service.gateway.endpoints.source import Route, Source
    from octavo.service.gateway.pod import PodSettings

log = logging.getLogger(__name__)


class Directory:
    """Follows a source of endpoints: a pool for each model, made and closed as the source tells."""

    def __init__(
        self,
        source: Source,
        settings: PodSettings | None = None,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._settings = settings
        self._random = random or Random()
        self._clock = clock
        self._pools: dict[str, Pool] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._known = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[Pool], None]] = []

    @property
    def ready(self) -> bool:
        """Whether the source has told its endpoints; before, every model is unavailable."""
        return self._known.is_set()

    async def until_ready(self) -> None:
        await self._known.wait()

    def on_demand_change(self, listener: Callable[[Pool], None]) -> None:
        """Calls `listener` when the first request begins to wait in a pool, and when none waits there."""
        self._listeners.append(listener)

    def pools(self) -> Sequence[Pool]:
        """All models' pools, by model name."""
        return [pool for _, pool in sorted(self._pools.items())]

    def pool(self, model: str) -> Pool:
        """One model's pool; the only one if `model` is empty. UnknownModel, InvalidRequest, Unavailable."""
        if model in self._pools:
            return self._pools[model]
        if not self._known.is_set():
            raise Unavailable("the gateway does not know its models yet", RETRY_SOON)
        if not model and len(self._pools) == 1:
            return next(iter(self._pools.values()))
        names = ", ".join(map(repr, sorted(self._pools))) or "nothing: no model is served"
        if model:
            raise UnknownModel(Violation("model", model, f"must be one of {names}"))
        raise InvalidRequest(Violation("model", model, f"must be set, to one of {names}"))

    async def start(self) -> None:
        """Begins to follow the source. Does not wait for its first word: see `ready`."""
        self._task = asyncio.create_task(self._follow(), name="endpoints")

    async def stop(self) -> None:
        """Refuses all who wait, and cuts all connections."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        pools = [*self._pools.values()]
        self._pools.clear()
        await asyncio.gather(*(pool.close() for pool in pools), *self._closing)

    async def _follow(self) -> None:
        async for routes in self._source.routes():
            self._apply(routes)
            self._known.set()

    def _apply(self, routes: Mapping[str, Route]) -> None:
        for model in self._pools.keys() - routes.keys():
            log.info("model %s is no longer served", model)
            self._close(self._pools.pop(model))
        for model, route in routes.items():
            if model in self._pools:
                self._pools[model].set_route(route)
            else:
                log.info("model %s is served by %d pods", model, len(route.addresses))
                self._pools[model] = self._open(model, route)

    def _open(self, model: str, route: Route) -> Pool:
        def demand_changed() -> None:
            for listener in self._listeners:
                listener(pool)

        pool = Pool(model, route, self._random, self._settings, demand_changed, self._clock)
        return pool

    def _close(self, pool: Pool) -> None:
        closing = asyncio.create_task(pool.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
