"""The loads that pods tell, kept up to date by one stream per pod."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Any

import grpc

from octavo.operator.autoscaler import Load
from octavo.v1 import engine_pb2 as pb
from octavo.v1.engine_pb2_grpc import EngineStub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

logger = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds without a report, on top of the interval, after which a pod hangs and is dialled anew."""
FIRST_RETRY = 0.25
LAST_RETRY = 4.0
"""Seconds before a broken stream is tried again: doubling from the first to the last."""

CHANNEL_OPTIONS = [
    # Each attempt has a connection of its own: an old one may lead to a process that is stopped, or gone.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    # Pods are reached directly, whatever proxy the cluster's owner sets for the world outside.
    ("grpc.enable_http_proxy", 0),
]


@dataclass(frozen=True, slots=True)
class Sample:
    """A load, and how many seconds ago its pod told it."""

    load: Load
    age: float


@dataclass(frozen=True, slots=True)
class Target:
    """A pod to watch."""

    model: str
    pod: str
    address: str


class LoadWatcher:
    """Keeps an `Engine.WatchLoad` stream to each pod that it is told of, in a thread of its own.

    All methods may be called from any thread and don't wait for the network. Streams that break or fall
    silent are opened anew for as long as the pod is watched; meanwhile its last load grows old.
    """

    def __init__(
        self,
        interval: float = 1.0,
        on_change: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`interval`: seconds between two loads of a pod, at least 0.01. `on_change(model)` is called in the
        watcher's thread when a pod tells its first load or a queue appears, at most once per interval.
        """
        self._interval = interval
        self._on_change = on_change
        self._clock = clock
        self._lock = threading.Lock()
        # Both under the lock. A pod's load is kept only while the pod is watched at the address that told it.
        self._watched: dict[str, dict[str, Target]] = {}
        self._told: dict[Target, tuple[Load, float]] = {}
        # The rest belongs to the thread.
        self._streams: dict[Target, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._announced: dict[str, float] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="load-watcher", daemon=True)
        self._thread.start()

    def watch(self, model: str, pods: Mapping[str, str]) -> None:
        """From now on these are the model's pods: name → `host:port`. Streams to others of this model end."""
        targets = {name: Target(model, name, address) for name, address in pods.items()}
        with self._lock:
            before = self._watched.get(model, {})
            if before == targets:
                return
            for target in set(before.values()).difference(targets.values()):
                self._told.pop(target, None)
            if targets:
                self._watched[model] = targets
            else:
                self._watched.pop(model, None)
        self._loop.call_soon_threadsafe(self._adjust, set(before.values()) | set(targets.values()))

    def forget(self, model: str) -> None:
        """Ends the streams to the model's pods."""
        self.watch(model, {})

    def snapshot(self, model: str) -> Mapping[str, Sample]:
        """The last load of each of the model's pods that has told one, by the pod's name."""
        with self._lock:
            told = [(name, self._told.get(target)) for name, target in self._watched.get(model, {}).items()]
            now = self._clock()
        return {name: Sample(each[0], max(0.0, now - each[1])) for name, each in told if each is not None}

    def close(self) -> None:
        """Ends all streams and the thread. Nothing can be watched after."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for target in list(self._streams):
                self._end(target)
            self._loop.run_until_complete(asyncio.gather(*self._ending, return_exceptions=True))
            self._loop.close()

    def _adjust(self, targets: set[Target]) -> None:
        """Brings the streams to these targets in line with what is watched."""
        for target in targets:
            watched, streaming = self._is_watched(target), target in self._streams
            if watched and not streaming:
                self._streams[target] = self._loop.create_task(self._follow(target))
            elif streaming and not watched:
                self._end(target)

        with self._lock:
            gone = {target.model for target in targets}.difference(self._watched)
        for model in gone:
            self._announced.pop(model, None)

    def _end(self, target: Target) -> None:
        stream = self._streams.pop(target)
        stream.cancel()
        self._ending.add(stream)
        stream.add_done_callback(self._ending.discard)

    def _is_watched(self, target: Target) -> bool:
        with self._lock:
            return self._watched.get(target.model, {}).get(target.pod) == target

    async def _follow(self, target: Target) -> None:
        retry = FIRST_RETRY
        while True:
            try:
                async with contextlib.aclosing(self._loads(target.address)) as loads:
                    async for load in loads:
                        self._keep(target, load)
                        retry = FIRST_RETRY
                logger.debug("%s: the pod ended its stream of loads", target.pod)
            except TimeoutError:
                logger.debug("%s: no load for %g s", target.pod, PATIENCE + self._interval)
            except grpc.aio.AioRpcError as error:
                logger.debug("%s: no load: %s %s", target.pod, error.code().name, error.details())
            except Exception:
                logger.exception("%s: the stream of loads failed", target.pod)
            await asyncio.sleep(retry)
            retry = min(retry * 2, LAST_RETRY)

    async def _loads(self, address: str) -> AsyncGenerator[Load, None]:
        """One stream's loads. Raises TimeoutError if the pod falls silent, AioRpcError if it breaks."""
        request = pb.WatchLoadRequest()
        request.interval.FromTimedelta(timedelta(seconds=self._interval))
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            call: Any = EngineStub(channel).WatchLoad(request)
            while True:
                async with asyncio.timeout(PATIENCE + self._interval):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    return
                yield load_of(response.load)

    def _keep(self, target: Target, load: Load) -> None:
        with self._lock:
            if self._watched.get(target.model, {}).get(target.pod) != target:
                return
            before = self._told.get(target)
            self._told[target] = (load, self._clock())
        if before is None or (load.waiting and not before[0].waiting):
            self._announce(target.model)

    def _announce(self, model: str) -> None:
        if self._on_change is None:
            return
        now = self._loop.time()
        last = self._announced.get(model, -inf)
        if last > now:
            return
        at = self._announced[model] = max(now, last + self._interval)
        self._loop.call_at(at, self._call_back, model)

    def _call_back(self, model: str) -> None:
        assert self._on_change is not None
        try:
            self._on_change(model)
        except Exception:
            logger.exception("%s: telling that the load changed failed", model)


def load_of(message: pb.Load) -> Load:
    """The autoscaler's value of a pod's message."""
    return Load(
        total_blocks=message.total_blocks,
        held_blocks=message.held_blocks,
        running=message.running,
        waiting=message.waiting,
        waiting_tokens=message.waiting_tokens,
        total_requests=message.total_requests,
        total_prompt_tokens=message.total_prompt_tokens,
        total_cached_prompt_tokens=message.total_cached_prompt_tokens,
        total_output_tokens=message.total_output_tokens,
        draining=message.draining,
    )
