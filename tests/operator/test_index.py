"""The index holds what was last seen, whatever order it was seen in."""

from __future__ import annotations

from typing import Any

from octavo.operator.desired.identity import MODEL_LABEL
from octavo.operator.index import Index, Key
from octavo.operator.kinds import MODEL, POD

KEY = Key("lab", "small")


def pod(name: str, version: int, uid: str = "1") -> dict[str, Any]:
    labels = {MODEL_LABEL: "small"}
    metadata = {"namespace": "lab", "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"kind": "Pod", "metadata": {**metadata, "labels": labels}}


def versions(index: Index) -> dict[str, str]:
    return {p["metadata"]["name"]: p["metadata"]["resourceVersion"] for p in index.children(KEY, POD)}


def test_an_object_is_found_under_the_model_of_its_label() -> None:
    index = Index()
    assert index.put(POD, pod("a", 1)) == KEY
    assert versions(index) == {"a": "1"}


def test_an_older_version_that_arrives_late_is_no_news() -> None:
    index = Index()
    index.put(POD, pod("a", 5))
    assert index.put(POD, pod("a", 4)) is None
    assert index.put(POD, pod("a", 5)) is None
    assert versions(index) == {"a": "5"}


def test_an_object_made_anew_takes_the_place_of_the_old_one() -> None:
    index = Index()
    index.put(POD, pod("a", 5, "old"))
    index.put(POD, pod("a", 7, "new"))
    assert index.remove(POD, pod("a", 6, "old")) == KEY
    assert versions(index) == {"a": "7"}


def test_reading_everything_forgets_what_is_gone() -> None:
    index = Index()
    for name in ("a", "b"):
        index.put(POD, pod(name, 1))
    index.replace(POD, [pod("b", 2), pod("c", 3)])
    assert versions(index) == {"b": "2", "c": "3"}


def test_a_model_is_found_by_its_own_name() -> None:
    index = Index()
    resource = {"kind": "InferenceModel", "metadata": {"namespace": "lab", "name": "small", "uid": "1"}}
    index.put(MODEL, resource)
    assert list(index.models) == [KEY]
    index.remove(MODEL, resource)
    assert not index.models
