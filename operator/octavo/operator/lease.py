"""Which of several operators acts: the one that holds a Lease.

The algorithm is client-go's (tools/leaderelection): a lease is anybody's once its holder has not renewed it
for its whole duration *as seen by one's own clock* since the last change one saw, so clocks need not agree.
A holder that cannot renew stops acting sooner than another may begin.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from octavo.operator.cluster import ApiError
from octavo.operator.kinds import LEASE

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.operator.cluster import Cluster
    from octavo.operator.desired import Manifest

log = logging.getLogger("octavo.operator.lease")


@dataclass(frozen=True, slots=True)
class Terms:
    """Times in seconds: a holder is gone after `duration`, stops itself after `renew_deadline`."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0


class Lease:
    """One candidate's view of the lease. `run` competes for it until cancelled."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        identity: str,
        terms: Terms = Terms(),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self.holder = ""
        """Who holds it, as last seen."""
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._terms = terms
        self._monotonic = monotonic
        self._seen: dict[str, Any] | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None
        self._gained = asyncio.Event()

    @property
    def held(self) -> bool:
        """Whether it is certain that nobody else holds it. True only while renewals succeed."""
        return (
            self._renewed_at is not None and self._monotonic() - self._renewed_at < self._terms.renew_deadline
        )

    async def gained(self) -> None:
        """Returns when this candidate holds the lease."""
        while not self.held:
            self._gained.clear()
            await self._gained.wait()

    async def run(self) -> None:
        """Tries to get and to keep the lease, every `retry` seconds."""
        while True:
            had = self.held
            # The time before the call is what counts: when its answer comes, another may already wait.
            began = self._monotonic()
            try:
                if await self._try():
                    self._renewed_at = began
                    if not had:
                        log.info("%s holds the lease %s/%s", self.identity, self._namespace, self._name)
                    self._gained.set()
                elif self._renewed_at is not None:
                    log.warning("the lease is %s's now", self.holder)
                    self._renewed_at = None
            except ApiError as error:
                log.warning("cannot renew the lease %s/%s: %s", self._namespace, self._name, error)
                if self._renewed_at is not None and not self.held:
                    log.error("the lease could not be renewed in time: this operator no longer acts")
                    self._renewed_at = None
            await asyncio.sleep(self._terms.retry)

    async def release(self) -> None:
        """Gives the lease up, so that a standby need not wait for it to expire."""
        if not self.held:
            return
        self._renewed_at = None
        try:
            lease = await self._cluster.get(LEASE, self._namespace, self._name)
            if lease and lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                await self._cluster.replace(lease)
                log.info("released the lease")
        except ApiError as error:
            log.warning("cannot release the lease: %s", error)

    async def _try(self) -> bool:
        lease = await self._cluster.get(LEASE, self._namespace, self._name)
        if lease is None:
            return await self._written(self._cluster.create(self._lease(None)))
        spec = lease.get("spec", {})
        if spec != self._seen:
            self._seen, self._seen_at = spec, self._monotonic()
        self.holder = spec.get("holderIdentity") or ""
        expired = self._monotonic() - self._seen_at >= float(spec.get("leaseDurationSeconds") or 0)
        if self.holder not in ("", self.identity) and not expired:
            return False
        return await self._written(self._cluster.replace(self._lease(lease)))

    async def _written(self, call: Any) -> bool:
        """False if another candidate was faster."""
        try:
            written = await call
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        self._seen, self._seen_at = written["spec"], self._monotonic()
        self.holder = self.identity
        return True

    def _lease(self, before: Manifest | None) -> Manifest:
        spec = before.get("spec", {}) if before else {}
        mine = spec.get("holderIdentity") == self.identity
        transitions = spec.get("leaseTransitions") or 0
        metadata = before["metadata"] if before else {"namespace": self._namespace, "name": self._name}
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": int(self._terms.duration),
                "acquireTime": spec.get("acquireTime") if mine else _now(),
                "renewTime": _now(),
                "leaseTransitions": transitions if mine or not before else transitions + 1,
            },
        }


def _now() -> str:
    """MicroTime, as a Lease has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
