"""One request's way over the pods: the first pick, and another one each time that a pod fails it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from octavo.service.gateway.pool import RETRY_SOON
from octavo.service.gateway.retry import Attempts
from octavo.service.rpc.refusals import Relayed, Unavailable

if TYPE_CHECKING:
    from octavo.service.gateway.picker import Query
    from octavo.service.gateway.pool import Pick, Pool
    from octavo.service.gateway.retry import RetryBudget, RetrySettings
    from octavo.service.gateway.upstream import Trouble
    from octavo.service.telemetry.passage import Passage


class Placement:
    """Picks pods for one request. Raises what its client is to be told when none can serve it."""

    def __init__(
        self,
        pool: Pool,
        query: Query,
        settings: RetrySettings,
        budget: RetryBudget,
        passage: Passage | None = None,
    ) -> None:
        """passage: is told of the picks."""
        self._passage = passage
        self._pool = pool
        self._query = query
        self._settings = settings
        self._budget = budget
        self._attempts = Attempts(settings, budget)

    async def first_now(self) -> Pick | None:
        """A pod, if there is one at once."""
        with contextlib.suppress(Unavailable):
            pick = await self._pool.pick(self._query, patience=0)
            if self._passage is not None:
                self._passage.picked(pick)
            return pick
        return None

    async def first(self) -> Pick:
        """Waits for a pod if there is none. Unavailable."""
        patience = self._settings.wake_patience if self._pool.waking else self._settings.patience
        return await self._pick(self._query, patience)

    async def next(self, address: str, trouble: Trouble, *, progress: bool, begun: bool) -> Pick:
        """Another pod, after the one at `address` has got into `trouble`. Unavailable or Relayed.

        progress: whether that one has brought a token. begun: whether the client has been told anything:
        then full queues are waited for, while a request that has not begun is refused if all are full.
        """
        attempts = self._attempts
        pause = attempts.after(address, progress=progress, busy=trouble.busy)
        if pause is None or (pause and trouble.busy and not begun):
            raise self._refusal(trouble)
        await asyncio.sleep(pause)
        query = replace(self._query, exclude=attempts.tried)
        patience = self._settings.wake_patience if self._pool.waking else attempts.remaining
        pick = await self._pick(query, patience)
        if trouble.busy and not begun and pick.pod.address in attempts.tried:
            pick.done()
            raise self._refusal(trouble)
        return pick

    async def _pick(self, query: Query, patience: float) -> Pick:
        if self._passage is None:
            return await self._pool.pick(query, patience)
        with self._passage.picking() as picked:
            pick = await self._pool.pick(query, patience)
            picked(pick)
        return pick

    def succeeded(self) -> None:
        self._budget.deposit()

    def _refusal(self, trouble: Trouble) -> Exception:
        if self._passage is not None:
            self._passage.gave_up()
        if trouble.busy:
            return Relayed(trouble.status)
        said = trouble.status.message.partition("; try again in ")[0]
        return Unavailable(
            f"no pod of model {self._pool.model!r} could finish the request: {said}", RETRY_SOON
        )
