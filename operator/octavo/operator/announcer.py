"""Kubernetes Events of a model: what `kubectl describe` and `kubectl events` tell of it."""

from __future__ import annotations

import logging
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from octavo.operator.cluster import ApiError
from octavo.operator.kinds import EVENT
from octavo.operator.model import API_VERSION, KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from octavo.operator.cluster import Cluster
    from octavo.operator.conditions import Condition
    from octavo.operator.desired import Manifest

log = logging.getLogger("octavo.operator.announcer")

COMPONENT = "octavo-operator"
QUIET = 600.0
"""Seconds in which the same thing is not told again."""
NOTE_LIMIT = 1000
TOLD = {"Ready": True, "Degraded": False, "ScalingActive": True}
"""The conditions whose changes are told, and what each should be."""


class Announcer:
    """Writes Events. One that cannot be written is logged and lost: nothing depends on it."""

    def __init__(
        self, cluster: Cluster, instance: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """instance: which of several operators this is."""
        self._cluster = cluster
        self._instance = instance
        self._monotonic = monotonic
        self._told: dict[tuple[str, str, str], float] = {}

    async def conditions(
        self, resource: Manifest, before: Iterable[Mapping[str, Any]], now: Iterable[Condition]
    ) -> None:
        """Tells which conditions have changed."""
        known = {condition["type"]: (condition["status"], condition["reason"]) for condition in before}
        for condition in now:
            last = known.get(condition.type)
            if condition.type not in TOLD or last == (condition.word, condition.reason):
                continue
            good = condition.status is TOLD[condition.type]
            if last is None and good and condition.type != "Ready":
                continue  # all is well from the start
            starting = condition.reason in ("Starting", "EndpointsPending", "ReplicasFixed")
            kind = "Normal" if good or starting else "Warning"
            await self.tell(resource, kind, condition.type, condition.reason, condition.message)

    async def tell(self, resource: Manifest, kind: str, action: str, reason: str, note: str) -> None:
        """One Event. kind: Normal or Warning; action: what it is about, in CamelCase."""
        metadata = resource["metadata"]
        what = (metadata["uid"], reason, note)
        now = self._monotonic()
        self._told = {each: at for each, at in self._told.items() if now - at < QUIET}
        if what in self._told:
            return
        self._told[what] = now
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {
                "name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}",
                "namespace": metadata["namespace"],
            },
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": kind,
            "action": action,
            "reason": reason,
            "note": note[:NOTE_LIMIT],
            "reportingController": f"serving.octavo.dev/{COMPONENT}",
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
        }
        try:
            await self._cluster.create(event)
        except ApiError as error:
            log.warning("cannot write an event of %s: %s", metadata["name"], error)
