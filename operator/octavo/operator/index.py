"""What the cluster was last seen to hold: the models, and each model's objects."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from octavo.operator.desired.identity import MODEL_LABEL
from octavo.operator.kinds import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from octavo.operator.desired import Manifest
    from octavo.operator.kinds import Kind


class Key(NamedTuple):
    """A model, as one finds it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Index:
    """Objects by the model that they belong to. Not for several threads."""

    def __init__(self) -> None:
        self._models: dict[Key, Manifest] = {}
        self._children: defaultdict[Key, dict[tuple[str, str], Manifest]] = defaultdict(dict)

    @property
    def models(self) -> Mapping[Key, Manifest]:
        return self._models

    def children(self, key: Key, kind: Kind) -> list[Manifest]:
        """The objects of a kind that carry the model's label, in the order of their names."""
        found = self._children.get(key, {})
        return [child for (of, _), child in sorted(found.items()) if of == kind.kind]

    def put(self, kind: Kind, manifest: Manifest) -> Key | None:
        """Takes in an object as it is now. The model that it concerns; None if it is no news."""
        key = _key_of(kind, manifest)
        if key is None:
            return None
        name = manifest["metadata"]["name"]
        known = self._models.get(key) if kind is MODEL else self._children[key].get((kind.kind, name))
        if known is not None and _version(manifest) <= _version(known) and _same(known, manifest):
            return None
        if kind is MODEL:
            self._models[key] = manifest
        else:
            self._children[key][kind.kind, name] = manifest
        return key

    def remove(self, kind: Kind, manifest: Manifest) -> Key | None:
        """The object is gone, unless another one has its name by now. The model that it concerned."""
        key = _key_of(kind, manifest)
        if key is None:
            return None
        name = manifest["metadata"]["name"]
        if kind is MODEL:
            if key in self._models and _same(self._models[key], manifest):
                del self._models[key]
        elif (known := self._children[key].get((kind.kind, name))) and _same(known, manifest):
            del self._children[key][kind.kind, name]
        if not self._children[key]:
            del self._children[key]
        return key

    def replace(self, kind: Kind, manifests: Iterable[Manifest]) -> None:
        """These are all objects of the kind that there are."""
        there = {(_key_of(kind, each), each["metadata"]["name"]): each for each in manifests}
        for known in self._all(kind):
            if (_key_of(kind, known), known["metadata"]["name"]) not in there:
                self.remove(kind, known)
        for manifest in there.values():
            self.put(kind, manifest)

    def _all(self, kind: Kind) -> list[Manifest]:
        if kind is MODEL:
            return list(self._models.values())
        return [
            child
            for children in self._children.values()
            for (of, _), child in children.items()
            if of == kind.kind
        ]


def _key_of(kind: Kind, manifest: Manifest) -> Key | None:
    metadata = manifest["metadata"]
    name = metadata["name"] if kind is MODEL else metadata.get("labels", {}).get(MODEL_LABEL)
    return Key(metadata["namespace"], name) if name else None


def _version(manifest: Manifest) -> int:
    """Versions of one object grow; one that is no number counts as new."""
    version = manifest["metadata"].get("resourceVersion", "")
    return int(version) if version.isdecimal() else 2**63


def _same(one: Manifest, other: Manifest) -> bool:
    return bool(one["metadata"].get("uid") == other["metadata"].get("uid"))
