"""The operator at work: compete for the lease, and while it is held, reconcile."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from octavo.operator.announcer import Announcer
from octavo.operator.applier import Applier
from octavo.operator.cluster import ApiError, NotLeading, connect
from octavo.operator.desired.identity import MODEL_LABEL
from octavo.operator.handlers import Watcher
from octavo.operator.health import health_server
from octavo.operator.index import Index, Key
from octavo.operator.kinds import MODEL, WATCHED
from octavo.operator.lease import Lease
from octavo.operator.load import LoadWatcher
from octavo.operator.metrics import Metrics
from octavo.operator.reconciler import Reconciler, Surroundings
from octavo.operator.workqueue import WorkQueue

if TYPE_CHECKING:
    from octavo.operator.cluster import Cluster
    from octavo.operator.desired import Manifest
    from octavo.operator.kinds import Kind
    from octavo.operator.settings import Settings

log = logging.getLogger("octavo.operator")

DEBOUNCE = 0.1
"""Seconds for which the events of a model gather."""
RETRY = 2.0
"""Seconds between two attempts to read the cluster."""
RECONCILE_LIMIT = 60.0
"""Seconds that one reconciliation may take."""
SILENCE_LIMIT = 30.0
"""Seconds without advance after which the process is better started anew."""


class Operator:
    """One of possibly several operators."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self._index = Index()
        self._metrics = Metrics()
        self._queue: WorkQueue[Key] = WorkQueue(DEBOUNCE)
        self._lease = Lease(cluster, settings.lease_namespace, settings.lease_name, settings.identity)
        self._loop = asyncio.get_running_loop()
        self._watcher = Watcher(settings.namespaces, self._see_from_thread)
        self._loads = LoadWatcher(on_change=self._load_changed_in_thread)
        fenced = cluster.fenced(lambda: self._lease.held)
        self._reconciler = Reconciler(
            fenced,
            self._index,
            Applier(fenced, self._index),
            self._loads,
            Announcer(fenced, settings.identity),
            self._metrics,
            Surroundings(settings.platform, settings.doors),
            clock=time.time,
        )
        self._leading = False
        self._watching = False
        self._ticked = time.monotonic()
        self._busy: dict[Key, float] = {}

    async def run(self) -> None:
        """Until cancelled; gives the lease up then. Fails if one of its parts does."""
        async with AsyncExitStack() as stack:
            stack.callback(self._loads.close)
            stack.callback(self._watcher.stop)
            if self._settings.port:
                settings = self._settings
                await stack.enter_async_context(
                    health_server(settings.host, settings.port, self._metrics, self._alive, self._ready)
                )
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._tick())
                    await self._wait_for_the_kind()
                    self._watcher.start()
                    self._watching = True
                    tasks.create_task(self._lease.run())
                    tasks.create_task(self._lead())
            finally:
                await self._lease.release()

    async def _wait_for_the_kind(self) -> None:
        """Until the API server answers and knows InferenceModel; an operator may start before its CRD."""
        told = ""
        while True:
            try:
                if await self._cluster.serves(MODEL):
                    return
                trouble = "the API server does not know InferenceModel; is the CRD installed?"
            except ApiError as error:
                trouble = str(error)
            if trouble != told:
                log.warning("waiting: %s", trouble)
                told = trouble
            await asyncio.sleep(RETRY)

    async def _lead(self) -> None:
        """Reconciles whenever, and only while, the lease is held."""
        while True:
            await self._lease.gained()
            await self._read_everything()
            self._reconciler.restart()
            self._queue.forget()
            self._leading = True
            self._metrics.leading.set(1)
            workers = [asyncio.create_task(self._work()) for _ in range(self._settings.workers)]
            workers.append(asyncio.create_task(self._resync()))
            log.info("leading: %d models", len(self._index.models))
            try:
                self._add_all()
                await self._until_the_lease_is_lost(workers)
            finally:
                self._leading = False
                self._metrics.leading.set(0)
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                self._busy.clear()

    async def _until_the_lease_is_lost(self, workers: list[asyncio.Task[None]]) -> None:
        while self._lease.held:
            done, _ = await asyncio.wait(workers, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            for worker in done:
                worker.result()  # a worker never ends of itself: what ended it ends the operator

    async def _work(self) -> None:
        while True:
            key = await self._queue.next()
            self._busy[key] = time.monotonic()
            try:
                with self._metrics.duration.time():
                    async with asyncio.timeout(RECONCILE_LIMIT):
                        done = await self._reconciler.reconcile(key)
                if done:
                    self._queue.done(key)
                else:
                    self._queue.failed(key)
            except NotLeading:
                self._queue.done(key)
            except Exception as error:
                self._metrics.reconciles.labels("failed").inc()
                delay = self._queue.failed(key)
                if isinstance(error, ApiError):
                    log.warning("%s: %s; again in %g s", key, error, delay)
                else:
                    log.exception("%s: reconciling failed; again in %g s", key, delay)
            finally:
                self._busy.pop(key, None)

    async def _tick(self) -> None:
        """Looks at every model regularly: load changes without any event, and events may be lost."""
        while True:
            self._ticked = time.monotonic()
            self._metrics.models.set(len(self._index.models))
            if self._leading:
                self._add_all()
            await asyncio.sleep(self._settings.interval)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync)
            await self._read_everything()
            self._add_all()

    async def _read_everything(self) -> None:
        """Reads all objects; a watch may have missed some, above all those that are gone."""
        while self._lease.held:
            try:
                for kind in WATCHED:
                    self._index.replace(kind, await self._all(kind))
                return
            except ApiError as error:
                log.warning("cannot read the cluster: %s", error)
                await asyncio.sleep(RETRY)

    async def _all(self, kind: Kind) -> list[Manifest]:
        labels = "" if kind is MODEL else MODEL_LABEL
        if not self._settings.namespaces:
            return await self._cluster.find(kind, labels=labels)
        found = [await self._cluster.find(kind, each, labels) for each in self._settings.namespaces]
        return [manifest for manifests in found for manifest in manifests]

    def _add_all(self) -> None:
        for key in {*self._index.models, *self._reconciler.known}:
            self._queue.add(key)

    def _see_from_thread(self, kind: Kind, manifest: Manifest, gone: bool) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._see, kind, manifest, gone)

    def _see(self, kind: Kind, manifest: Manifest, gone: bool) -> None:
        known = self._generation(kind, manifest)
        key = self._index.remove(kind, manifest) if gone else self._index.put(kind, manifest)
        if key is None or not self._leading:
            return
        if kind is MODEL and known != self._generation(kind, manifest):
            self._queue.hasten(key)
        else:
            self._queue.add(key)

    def _generation(self, kind: Kind, manifest: Manifest) -> object:
        if kind is not MODEL:
            return None
        metadata = manifest["metadata"]
        known = self._index.models.get(Key(metadata["namespace"], metadata["name"]), {})
        return known.get("metadata", {}).get("generation")

    def _load_changed_in_thread(self, model: str) -> None:
        namespace, _, name = model.partition("/")
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._load_changed, Key(namespace, name))

    def _load_changed(self, key: Key) -> None:
        if self._leading:
            self._queue.add(key)

    def _alive(self) -> str:
        """What stands still, standby or not; the API server's absence is not the operator's fault."""
        now = time.monotonic()
        if now - self._ticked > SILENCE_LIMIT:
            return f"no look at the models for {now - self._ticked:.0f} s"
        if self._watching and self._watcher.silent_for > SILENCE_LIMIT + 30:
            return f"the watches have shown no sign of life for {self._watcher.silent_for:.0f} s"
        for key, since in self._busy.items():
            if now - since > RECONCILE_LIMIT + SILENCE_LIMIT:
                return f"reconciling {key} has taken {now - since:.0f} s"
        return ""

    def _ready(self) -> str:
        return "" if self._watching else "waiting for the API server to know InferenceModel"


async def run(settings: Settings) -> None:
    """Connects and runs an operator until cancelled."""
    cluster = await connect()
    try:
        await Operator(settings, cluster).run()
    finally:
        await cluster.close()
