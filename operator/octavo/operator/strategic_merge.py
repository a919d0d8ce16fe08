"""Strategic merge of a pod template, as `kubectl patch --type=strategic` does it.

Objects are merged key by key, null removes a key. Of the lists, those with a merge key in Kubernetes' API
are merged element by element, every other one is replaced. The directives `$patch: replace` and
`$patch: delete` are known, and `$retainKeys`. Source: "Strategic Merge Patch" in Kubernetes'
sig-api-machinery documents, and the patchMergeKey of the types in core/v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
}
"""Lists of a pod that are merged: their field, and the key that tells their elements apart."""

PATCH = "$patch"
RETAIN_KEYS = "$retainKeys"
UNION_KEYED = frozenset({"volumes"})
"""Lists whose elements are a union: a patch that names another member replaces the one that was there."""


class MergeError(ValueError):
    """A patch that does not fit what it is merged into; `path` is where."""

    def __init__(self, path: str, rule: str) -> None:
        super().__init__(f"{path}: {rule}")
        self.path = path


def strategic_merge(original: Mapping[str, Any], patch: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`original` with `patch` merged over it; neither is changed. MergeError names what is below `path`."""
    directive = patch.get(PATCH)
    if directive == "replace":
        return {key: _without_directives(value) for key, value in patch.items() if _is_said(key, value)}
    if directive not in (None, "merge"):
        raise MergeError(f"{path}.{PATCH}", f"must be merge, replace or delete (got {directive!r})")
    merged = deepcopy(dict(original))
    if retained := patch.get(RETAIN_KEYS):
        merged = {key: value for key, value in merged.items() if key in retained}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None or _is_deleted(value):
            merged.pop(key, None)
        else:
            merged[key] = _merged(key, merged.get(key), value, f"{path}.{key}")
    return merged


def _merged(key: str, original: Any, patch: Any, path: str) -> Any:
    if isinstance(original, Mapping) and not isinstance(patch, Mapping):
        raise MergeError(path, f"must be an object (got {patch!r})")
    if isinstance(original, list) and not isinstance(patch, list):
        raise MergeError(path, f"must be a list (got {patch!r})")
    if isinstance(patch, Mapping):
        return strategic_merge(original if isinstance(original, Mapping) else {}, patch, path)
    if isinstance(patch, list):
        if key in MERGE_KEYS:
            return _merged_list(key, original or [], patch, path)
        return deepcopy(patch)
    return patch


def _merged_list(key: str, original: list[Any], patch: list[Any], path: str) -> list[Any]:
    """Elements that were there keep their place; new ones follow in the patch's order."""
    merge_key = MERGE_KEYS[key]
    replaced = any(isinstance(element, Mapping) and set(element) == {PATCH} for element in patch)
    merged: dict[Any, dict[str, Any]] = {}
    for element in [] if replaced else original:
        merged[element.get(merge_key)] = element
    for index, element in enumerate(patch):
        if isinstance(element, Mapping) and set(element) == {PATCH}:
            continue
        name = element.get(merge_key) if isinstance(element, Mapping) else None
        if not isinstance(name, (str, int)):
            raise MergeError(f"{path}[{index}]", f"must be an object with {merge_key} (got {element!r})")
        where = f"{path}[{merge_key}={name}]"
        if _is_deleted(element):
            merged.pop(name, None)
            continue
        before = merged.get(name, {})
        if key in UNION_KEYED and set(element) - {merge_key} - set(before):
            before = {}
        merged[name] = strategic_merge(before, element, where)
    return list(merged.values())


def _without_directives(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_directives(entry) for key, entry in value.items() if _is_said(key, entry)}
    if isinstance(value, list):
        return [_without_directives(entry) for entry in value]
    return value


def _is_deleted(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get(PATCH) == "delete"


def _is_said(key: str, value: Any) -> bool:
    return not key.startswith("$") and value is not None
