"""The gateway's word to the operator: how many requests wait for a model without a pod."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from octavo.service.gateway.kubernetes.api import Api, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.service.gateway.directory import Directory
    from octavo.service.gateway.kubernetes.api import Object

log = logging.getLogger(__name__)

RENEWAL = 5.0
"""Seconds after which a demand that still stands is told again; the operator forgets it after 15."""
RETRY = 1.0
"""Seconds after which it is told again if that has failed."""
PAUSE = 0.5
"""Seconds between two rounds, at least."""
NOT_FOUND = 404
API_VERSION = "serving.octavo.dev/v1alpha1"

Key = tuple[str, str]


class DemandPublisher:
    """Keeps this gateway's entry in `status.demand` of each InferenceModel whose requests wait.

    Tells at once when the first request begins to wait, since a model at zero replicas is to wake up; then
    renews it, and takes it back when none waits.
    """

    def __init__(
        self,
        api: Api,
        directory: Directory,
        resource: Callable[[str], Key | None],
        gateway: str,
        renewal: float = RENEWAL,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """resource: namespace and name of a model's resource. gateway: the name of this one's pod."""
        self._api = api
        self._directory = directory
        self._resource = resource
        self._gateway = gateway
        self._renewal = renewal
        self._now = now
        self._changed = asyncio.Event()
        self._published: set[Key] = set()
        self._failing = False
        self._task: asyncio.Task[None] | None = None
        directory.on_demand_change(lambda _: self._changed.set())

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="demand")

    async def stop(self) -> None:
        """Takes everything back."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for key in tuple(self._published):
            await self._apply(key, 0)

    async def _run(self) -> None:
        while True:
            # Demand that stands is renewed; without any, nothing happens until some arises.
            pause = RETRY if self._failing else self._renewal if self._published else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause)
            self._changed.clear()
            await self._tell()
            await asyncio.sleep(PAUSE)

    async def _tell(self) -> None:
        waiting = {pool.model: pool.waiting for pool in self._directory.pools()}
        wanted = {key: count for model, count in waiting.items() if count and (key := self._resource(model))}
        for key in self._published - wanted.keys():
            wanted[key] = 0
        told = await asyncio.gather(*(self._apply(key, count) for key, count in wanted.items()))
        self._failing = not all(told)

    async def _apply(self, key: Key, waiting: int) -> bool:
        """One entry, or none at all if nothing waits. False if that has failed."""
        namespace, name = key
        entry = {
            "gateway": self._gateway,
            "waiting": waiting,
            "renewedAt": self._now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        body: Object = {
            "apiVersion": API_VERSION,
            "kind": "InferenceModel",
            "metadata": {"name": name, "namespace": namespace},
            "status": {"demand": [entry] if waiting else []},
        }
        path = f"/apis/{API_VERSION}/namespaces/{namespace}/inferencemodels/{name}"
        self._published.add(key)
        try:
            await self._api.apply_status(path, f"octavo-gateway-{self._gateway}"[:128], body)
        except ApiError as error:
            if error.code != NOT_FOUND:
                level = logging.DEBUG if self._failing else logging.WARNING
                log.log(level, "demand of %s/%s: %s", namespace, name, error)
                return False
            waiting = 0
        if not waiting:
            self._published.discard(key)
        return True
