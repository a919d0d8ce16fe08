"""The pods of one model, and the requests that wait for one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from octavo.service.gateway.picker import Choice, Picker, Query
from octavo.service.gateway.pod import Pod, PodSettings, PodState
from octavo.service.gateway.scorers import PodView
from octavo.service.rpc.refusals import Unavailable
from octavo.v1 import gateway_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from octavo.service.gateway.endpoints.source import Route

RETRY_SOON = 1.0
"""Seconds until a pod that is there may take requests again."""
RETRY_LATER = 5.0
"""Seconds until a pod that is not there may have come."""


class Pick:
    """A pod for one request. `done` must be called once the request has ended there, in whatever way."""

    def __init__(self, pool: Pool, pod: Pod, choice: Choice) -> None:
        self.pod = pod
        self.lost = pod.lost
        """Set when the pod is lost while this request is there."""
        self.scores: Mapping[str, float] = choice.scores
        """Each scorer's value for the pod, and `total`."""
        self.num_candidates = choice.num_candidates
        self._pool = pool
        self._choice = choice

    def done(self, failed: bool = False) -> None:
        """The request is no longer there.

        failed: the pod could not serve it, and should get none for a while.
        """
        self._pool.release(self, self._choice, failed)


class Pool:
    """Picks among one model's pods. Each has a watch on its load, and is a candidate by what that says."""

    def __init__(
        self,
        model: str,
        route: Route,
        random: Random,
        settings: PodSettings | None = None,
        demand_changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """demand_changed: called when the first request begins to wait, and when the last one ceases to."""
        self.model = model
        self._settings = settings or PodSettings()
        self._demand_changed = demand_changed
        self._clock = clock
        self._route = route
        self._picker = Picker(route.policy, random)
        self._pods: dict[str, Pod] = {}
        self._leaving: set[Pod] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._waiters: deque[tuple[Query, asyncio.Future[Pick]]] = deque()
        self.set_route(route)

    @property
    def pods(self) -> Sequence[Pod]:
        return tuple(self._pods.values())

    @property
    def waiting(self) -> int:
        """Requests that wait because no pod can take them."""
        return len(self._waiters)

    @property
    def waking(self) -> bool:
        """Whether the model has no pod that was ever ready, but pods come when requests wait for one."""
        return self._route.waits and all(pod.state is PodState.CONNECTING for pod in self._pods.values())

    def set_route(self, route: Route) -> None:
        """From now on these are the pods. One that is gone gets nothing new, and is left when it is idle."""
        self._route = route
        self._picker.set_policy(route.policy, self._clock())
        self._picker.set_members(route.addresses)
        for address in self._pods.keys() - route.addresses:
            pod = self._pods.pop(address)
            self._picker.remove(address)
            self._leaving.add(pod)
            self._leave_if_idle(pod)
        for address in sorted(route.addresses - self._pods.keys()):
            pod = self._pods[address] = Pod(address, self._settings, self._pod_changed, self._clock)
            pod.start()
        if not self._may_come():
            self._refuse_all()

    async def close(self) -> None:
        """Refuses those who wait, and cuts all connections."""
        self._refuse_all()
        pods = [*self._pods.values(), *self._leaving]
        self._pods.clear()
        self._leaving.clear()
        await asyncio.gather(*(pod.close() for pod in pods), *self._closing)

    async def pick(self, query: Query, patience: float) -> Pick:
        """The best pod for a request, at once if there is a candidate and nobody waits already.

        Otherwise waits up to `patience` seconds for one, first come first served. Raises Unavailable if none
        has come, and at once if none is to be expected.
        """
        if not self._waiters and (pick := self._try_pick(query)) is not None:
            return pick
        if patience <= 0 or not self._may_come():
            raise self._unavailable()
        waiter: asyncio.Future[Pick] = asyncio.get_running_loop().create_future()
        place = (query, waiter)
        self._waiters.append(place)
        if len(self._waiters) == 1:
            self._demand_changed()
        try:
            async with asyncio.timeout(patience):
                return await waiter
        except TimeoutError:
            if _has_result(waiter):
                return waiter.result()  # in the last moment
            raise self._unavailable() from None
        except asyncio.CancelledError:
            if _has_result(waiter):
                waiter.result().done()  # a pod was found, but nobody is left to use it
            raise
        finally:
            if place in self._waiters:
                self._waiters.remove(place)
                if not self._waiters:
                    self._demand_changed()

    def take(self, pod: Pod, query: Query) -> Pick | None:
        """That pod and no other, for a request that goes on from what it holds; None if it takes none."""
        if self._pods.get(pod.address) is not pod:
            return None
        choice = self._picker.take(pod.address, query, self._clock())
        return None if choice is None else self._picked(choice)

    def release(self, pick: Pick, choice: Choice, failed: bool) -> None:
        """Takes a pick back; `Pick.done` calls it."""
        pod = pick.pod
        pod.in_flight -= 1
        self._picker.done(choice, self._clock())
        if not failed:
            pod.succeeded()
        elif not pick.lost.is_set():  # else it has been ejected for that, and may have come back since
            pod.failed()
        self._leave_if_idle(pod)

    def snapshot(self) -> gateway_pb2.ModelPods:
        """The pods by address, as `Gateway.WatchPods` tells them."""
        now = self._clock()
        message = gateway_pb2.ModelPods(model=self.model, waiting=self.waiting)
        for pod in sorted((*self._pods.values(), *self._leaving), key=lambda pod: pod.address):
            row = message.pods.add(address=pod.address, in_flight=pod.in_flight, state=pod.state.value)
            if pod in self._leaving:
                row.state = gateway_pb2.POD_STATE_DRAINING
            if pod.load is not None:
                row.load.CopyFrom(pod.load)
                row.load_age.FromNanoseconds(int((now - pod.reported_at) * 1e9))
        return message

    def _try_pick(self, query: Query) -> Pick | None:
        choice = self._picker.pick(query, self._clock())
        return None if choice is None else self._picked(choice)

    def _picked(self, choice: Choice) -> Pick:
        pod = self._pods[choice.address]
        pod.in_flight += 1
        return Pick(self, pod, choice)

    def _pod_changed(self, pod: Pod) -> None:
        if pod in self._leaving:
            self._leave_if_idle(pod)
        elif self._pods.get(pod.address) is not pod:
            return  # the last word of one that is being closed
        elif pod.state is PodState.SERVING:
            self._picker.report(pod.address, _view(pod), pod.reported_at)
            self._serve_waiters()
        else:
            self._picker.remove(pod.address)

    def _serve_waiters(self) -> None:
        if not self._waiters:
            return
        while self._waiters:
            query, waiter = self._waiters[0]
            if not waiter.done():
                pick = self._try_pick(query)
                if pick is None:
                    return
                waiter.set_result(pick)
            self._waiters.popleft()
        self._demand_changed()

    def _refuse_all(self) -> None:
        if not self._waiters:
            return
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(self._unavailable())
        self._waiters.clear()
        self._demand_changed()

    def _may_come(self) -> bool:
        """Whether it makes sense to wait for a candidate."""
        return bool(self._route.waits or self._route.addresses)

    def _unavailable(self) -> Unavailable:
        if not self._pods:
            return Unavailable(f"model {self.model!r} has no pod", RETRY_LATER)
        states = ", ".join(sorted({pod.state.name.lower() for pod in self._pods.values()}))
        return Unavailable(f"no pod of model {self.model!r} takes requests ({states})", RETRY_SOON)

    def _leave_if_idle(self, pod: Pod) -> None:
        if pod in self._leaving and (not pod.in_flight or pod.lost.is_set()):
            self._leaving.remove(pod)
            closing = asyncio.create_task(pod.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def _has_result(waiter: asyncio.Future[Pick]) -> bool:
    return waiter.done() and not waiter.cancelled() and waiter.exception() is None


def _view(pod: Pod) -> PodView:
    load = pod.load
    assert load is not None
    block_size = pod.model.block_size if pod.model is not None else 0
    return PodView(
        total_blocks=load.total_blocks,
        held_blocks=load.held_blocks,
        running=load.running,
        waiting=load.waiting,
        waiting_tokens=load.waiting_tokens,
        max_num_seqs=load.max_num_seqs,
        prefill_tokens=load.prefill_tokens,
        block_size=block_size or 16,
    )
