"""An API server of a few lines: optimistic locking, and server-side apply without merging."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from octavo.operator.cluster import ApiError, NotLeading
from octavo.operator.kinds import BY_NAME, Kind


class FakeCluster:
    """Has the methods of `Cluster`. `writes` are the calls that changed something."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.writes: list[str] = []
        self.refusals: dict[str, ApiError] = {}
        self.may_write = True
        self._version = 0

    def put(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The object is there, whoever made it."""
        metadata = manifest["metadata"]
        slot = (manifest["kind"], metadata["namespace"], metadata["name"])
        before = self.objects.get(slot)
        made = deepcopy(manifest)
        if before:
            made["metadata"] = before["metadata"] | made["metadata"]
            same = {**before, "metadata": {**before["metadata"], "resourceVersion": None}}
            if same == {**made, "metadata": {**made["metadata"], "resourceVersion": None}}:
                return deepcopy(before)
        self._version += 1
        made["metadata"].setdefault("uid", f"uid-{self._version}")
        made["metadata"]["resourceVersion"] = str(self._version)
        self.objects[slot] = made
        self.writes.append(f"{manifest['kind']}/{metadata['name']}")
        return deepcopy(made)

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        return deepcopy(self.objects.get((kind.kind, namespace, name)))

    async def apply(
        self, manifest: dict[str, Any], *, force: bool = False, subresource: str = ""
    ) -> dict[str, Any]:
        self._check(manifest["kind"])
        if subresource:
            metadata = manifest["metadata"]
            live = self.objects[manifest["kind"], metadata["namespace"], metadata["name"]]
            return self.put({**live, subresource: manifest[subresource]})
        metadata = manifest["metadata"]
        live = self.objects.get((manifest["kind"], metadata["namespace"], metadata["name"]), {})
        kept = {"status": live["status"]} if "status" in live else {}
        return self.put({**manifest, **kept})

    async def annotate(
        self, kind: Kind, namespace: str, name: str, annotations: dict[str, str]
    ) -> dict[str, Any]:
        self._check(kind.kind)
        live = deepcopy(self.objects[kind.kind, namespace, name])
        live["metadata"]["annotations"] = live["metadata"].get("annotations", {}) | annotations
        return self.put(live)

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._check(manifest["kind"])
        metadata = manifest["metadata"]
        if (manifest["kind"], metadata["namespace"], metadata["name"]) in self.objects:
            raise ApiError(409, "AlreadyExists", "it exists")
        return self.put(manifest)

    async def replace(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._check(manifest["kind"])
        metadata = manifest["metadata"]
        live = self.objects.get((manifest["kind"], metadata["namespace"], metadata["name"]))
        if not live or live["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            raise ApiError(409, "Conflict", "it has changed")
        return self.put(manifest)

    async def delete(self, manifest: dict[str, Any]) -> None:
        self._check(manifest["kind"])
        metadata = manifest["metadata"]
        del self.objects[manifest["kind"], metadata["namespace"], metadata["name"]]
        self.writes.append(f"-{manifest['kind']}/{metadata['name']}")

    def _check(self, kind: str) -> None:
        assert kind in BY_NAME
        if not self.may_write:
            raise NotLeading
        if kind in self.refusals:
            raise self.refusals[kind]
