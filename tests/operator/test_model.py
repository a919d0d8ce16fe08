"""A resource is parsed into a typed value, whatever schema admitted it; a wrong one names its field."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.operator.autoscaler import Policy
from octavo.operator.model import SpecError, parse, seconds
from tests.operator.models import model, resource


def test_what_an_older_schema_lacks_has_its_default() -> None:
    spec = model().spec
    assert (spec.engine.dtype, spec.scaling.max_replicas, spec.parallelism.tensor) == ("auto", 1, 1)


def test_what_a_newer_schema_has_is_passed_over() -> None:
    assert model(engine={"dtype": "float32", "speculation": {"tokens": 4}}).spec.engine.dtype == "float32"


def test_null_is_unset() -> None:
    assert model(engine={"dtype": None, "kvCache": None}).spec.engine.dtype == "auto"


def test_clients_use_the_resources_name_unless_another_is_given() -> None:
    assert model("small").model_name == "small"
    assert model(model={"uri": "hf://org/name", "name": "org/chat"}).model_name == "org/chat"


def test_scaling_is_the_autoscalers_policy() -> None:
    scaling = {
        "minReplicas": 0,
        "maxReplicas": 3,
        "targetKVUtilization": 0.5,
        "targetWaitingTokens": 64,
        "tolerance": 0.2,
        "scaleUpStabilizationSeconds": 1,
        "scaleDownStabilizationSeconds": 5,
        "scaleToZeroAfter": "1m30s",
    }
    assert model(scaling=scaling).spec.scaling.policy == Policy(0, 3, 0.5, 64, 0.2, 1, 5, 90)


def test_the_schemas_defaults_are_the_autoscalers() -> None:
    assert model().spec.scaling.policy == Policy()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"model": {}}, "spec.model.uri"),
        ({"model": {"uri": "ftp://x"}}, "spec.model.uri"),
        ({"model": {"uri": "file:///a/../b"}}, "spec.model.uri"),
        ({"model": {"uri": "builtin://smollm2", "revision": "main"}}, "spec.model"),
        ({"engine": {"quantization": "int3"}}, "spec.engine.quantization"),
        ({"parallelism": {"tensor": 0}}, "spec.parallelism.tensor"),
        ({"parallelism": {"tensor": 65}}, "spec.parallelism.tensor"),
        ({"parallelism": {"device": "gpu"}}, "spec.parallelism.device"),
        ({"scaling": {"minReplicas": 3, "maxReplicas": 2}}, "spec.scaling"),
        ({"scaling": {"targetKVUtilization": 1.5}}, "spec.scaling.targetKVUtilization"),
        ({"scaling": {"scaleToZeroAfter": "soon"}}, "spec.scaling.scaleToZeroAfter"),
        ({"podTemplate": "mine"}, "spec.podTemplate"),
        ({"replicas": -1}, "spec.replicas"),
    ],
)
def test_a_wrong_field_is_named(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as raised:
        model(**spec)
    assert raised.value.field == field


@pytest.mark.parametrize("name", ["1st", "a" * 58, "a.b", "A"])
def test_a_name_from_which_no_service_name_can_be_made_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"metadata\.name"):
        parse(resource(name))


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("168h", 604800)])
def test_durations(text: str, value: int) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "0s", "-5m", "1d", "30m1h", "169h", "1.5h"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        seconds(text)
