"""podTemplate is merged as `kubectl patch --type=strategic` merges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given

from octavo.operator.strategic_merge import MergeError, strategic_merge
from tests.operator.models import pod_templates

POD = {
    "terminationGracePeriodSeconds": 30,
    "containers": [
        {
            "name": "engine",
            "image": "ours",
            "args": ["a", "b"],
            "env": [{"name": "HOME", "value": "/tmp"}, {"name": "A", "value": "1"}],
            "ports": [{"containerPort": 1, "name": "grpc"}],
            "volumeMounts": [{"mountPath": "/tmp", "name": "tmp"}],
        }
    ],
    "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
}


def merged(patch: Mapping[str, Any]) -> dict[str, Any]:
    return strategic_merge(POD, patch, "spec")


def engine(patch: Mapping[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = merged({"containers": [{"name": "engine", **patch}]})["containers"][0]
    return container


def test_a_container_of_the_same_name_is_changed_and_another_is_added() -> None:
    pod = merged({"containers": [{"name": "sidecar", "image": "x"}, {"name": "engine", "image": "theirs"}]})
    assert [(c["name"], c["image"]) for c in pod["containers"]] == [("engine", "theirs"), ("sidecar", "x")]
    assert pod["containers"][0]["args"] == ["a", "b"]


def test_variables_are_merged_by_name() -> None:
    assert engine({"env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]})["env"] == [
        {"name": "HOME", "value": "/tmp"},
        {"name": "A", "value": "2"},
        {"name": "B", "value": "3"},
    ]


def test_ports_are_merged_by_number_and_mounts_by_path() -> None:
    container = engine(
        {
            "ports": [{"containerPort": 1, "hostPort": 9}],
            "volumeMounts": [{"mountPath": "/tmp", "name": "other"}],
        }
    )
    assert container["ports"] == [{"containerPort": 1, "name": "grpc", "hostPort": 9}]
    assert container["volumeMounts"] == [{"mountPath": "/tmp", "name": "other"}]


def test_a_list_without_merge_key_is_replaced() -> None:
    assert engine({"args": ["c"]})["args"] == ["c"]
    assert merged({"tolerations": [{"key": "gpu"}]})["tolerations"] == [{"key": "gpu"}]


def test_null_removes() -> None:
    assert "terminationGracePeriodSeconds" not in merged({"terminationGracePeriodSeconds": None})


def test_a_deleted_object_is_removed_where_null_does_not_arrive() -> None:
    """`kubectl apply` drops nulls before it sends a resource."""
    assert "image" not in engine({"image": None})
    assert "resources" not in engine({"resources": {"$patch": "delete"}})


def test_directives_delete_and_replace() -> None:
    assert engine({"env": [{"name": "A", "$patch": "delete"}]})["env"] == [{"name": "HOME", "value": "/tmp"}]
    assert engine({"env": [{"$patch": "replace"}, {"name": "C", "value": "1"}]})["env"] == [
        {"name": "C", "value": "1"}
    ]
    assert merged({"$patch": "replace", "hostNetwork": True}) == {"hostNetwork": True}


def test_a_volume_of_another_kind_takes_the_place_of_the_one_that_was_there() -> None:
    claim = {"claimName": "big"}
    pod = merged({"volumes": [{"name": "tmp", "persistentVolumeClaim": claim}]})
    assert pod["volumes"] == [{"name": "tmp", "persistentVolumeClaim": claim}]
    pod = merged({"volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}]})
    assert pod["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}}]


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        ({"containers": {"name": "engine"}}, "spec.containers"),
        ({"containers": [{"image": "x"}]}, "spec.containers[0]"),
        ({"containers": [{"name": "engine", "env": "A=1"}]}, "spec.containers[name=engine].env"),
        ({"volumes": [{"name": "tmp", "emptyDir": 3}]}, "spec.volumes[name=tmp].emptyDir"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(patch: dict[str, Any], path: str) -> None:
    with pytest.raises(MergeError) as raised:
        merged(patch)
    assert raised.value.path == path


@given(pod_templates)
def test_merging_twice_is_merging_once(template: dict[str, Any]) -> None:
    once = strategic_merge({"spec": POD}, template, "podTemplate")
    assert strategic_merge(once, template, "podTemplate") == once


@given(pod_templates)
def test_nothing_merged_over_something_is_that_thing(template: dict[str, Any]) -> None:
    made = strategic_merge({"spec": POD}, template, "podTemplate")
    assert strategic_merge(made, {}, "podTemplate") == made
