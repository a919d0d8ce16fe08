"""Makes what is desired so, and writes only what differs."""

from __future__ import annotations

import hashlib
import json
import logging
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from octavo.operator.cluster import ApiError
from octavo.operator.kinds import BY_NAME, MADE
from octavo.operator.model import KIND
from octavo.operator.observed import OWNER_OF_THE_UNOWNED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from octavo.operator.cluster import Cluster
    from octavo.operator.desired import Manifest
    from octavo.operator.index import Index, Key
    from octavo.operator.model import InferenceModel

log = logging.getLogger("octavo.operator.applier")

REVISION = "deployment.kubernetes.io/revision"
REPLICAS = ".spec.replicas"


class Taken(Exception):
    """An object of the name that is needed is there, and is not the model's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Applier:
    """Applies manifests under one field manager.

    After each call it remembers what was asked and what came of it. While neither changes, nothing is sent.
    """

    def __init__(self, cluster: Cluster, index: Index) -> None:
        self._cluster = cluster
        self._index = index
        self._known: dict[tuple[str, str, str], tuple[str, str]] = {}

    async def apply(self, model: InferenceModel, key: Key, manifest: Manifest) -> bool:
        """Makes one object as the manifest has it; True if anything was sent.

        Raises Taken where it would take an object that is not the model's, ApiError, NotLeading.
        """
        kind, name = BY_NAME[manifest["kind"]], manifest["metadata"]["name"]
        live = next(
            (each for each in self._index.children(key, kind) if each["metadata"]["name"] == name), None
        )
        if live is None:
            live = await self._cluster.get(kind, key.namespace, name)
        if live is not None:
            _check_owner(model, live)
        slot = (key.namespace, kind.kind, name)
        asked = _digest(manifest)
        if live is not None and self._known.get(slot) == (asked, _digest(_essence(live))):
            return False
        made = await self._applied(manifest)
        self._known[slot] = (asked, _digest(_essence(made)))
        self._index.put(kind, made)
        return live is None or live["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]

    async def prune(self, model: InferenceModel, key: Key, manifests: Iterable[Manifest]) -> None:
        """Deletes the model's objects that are no longer desired."""
        wanted = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
        for kind in MADE:
            for child in self._index.children(key, kind):
                metadata = child["metadata"]
                if (kind.kind, metadata["name"]) in wanted or "deletionTimestamp" in metadata:
                    continue
                if _controller(child).get("uid") == model.uid:
                    log.info("%s: deleting %s %s, no longer wanted", key, kind.kind, metadata["name"])
                    await self._cluster.delete(child)

    def forget(self, key: Key) -> None:
        """The model is gone."""
        names = {key.name, f"{key.name}-pods", f"{key.name}-cache"}
        for slot in [slot for slot in self._known if slot[0] == key.namespace and slot[2] in names]:
            del self._known[slot]

    async def _applied(self, manifest: Manifest) -> Manifest:
        """What others have set of our fields is taken back, except the replicas: those are let go."""
        try:
            return await self._cluster.apply(manifest)
        except ApiError as error:
            if error.status != 409 or not error.causes:
                raise
            if any(field == REPLICAS and OWNER_OF_THE_UNOWNED not in whose for field, whose in error.causes):
                manifest = deepcopy(manifest)
                manifest["spec"].pop("replicas", None)
            return await self._cluster.apply(manifest, force=True)


def _check_owner(model: InferenceModel, live: Manifest) -> None:
    owner = _controller(live)
    if owner.get("uid") == model.uid:
        return
    what = f"{live['kind']} {live['metadata']['name']}"
    if owner.get("kind") == KIND and owner.get("name") == model.name:
        raise Taken("AwaitingDeletion", f"{what} of a deleted InferenceModel of this name is still there")
    raise Taken("NameTaken", f"{what} exists and is not this InferenceModel's; delete it or rename the model")


def _controller(manifest: Manifest) -> dict[str, Any]:
    owners = manifest["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def _essence(live: Manifest) -> Manifest:
    """What somebody could have changed: everything but what the control plane writes."""
    metadata = live["metadata"]
    annotations = {key: value for key, value in metadata.get("annotations", {}).items() if key != REVISION}
    return {
        **{key: value for key, value in live.items() if key not in ("metadata", "status")},
        "metadata": {
            "uid": metadata.get("uid"),
            "labels": metadata.get("labels"),
            "annotations": annotations,
            "ownerReferences": metadata.get("ownerReferences"),
        },
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
