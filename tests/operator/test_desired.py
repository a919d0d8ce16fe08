"""A model's objects are a function of its spec: the same for every operator, stable where they must be."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given

from octavo.operator.desired import Manifest, Platform, desired
from octavo.operator.desired.identity import labels, selector, selector_string
from octavo.operator.model import SpecError
from tests.operator.models import model, names, specs

PLATFORM = Platform("octavo-engine:1", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"})


def objects(**spec: Any) -> dict[str, Manifest]:
    made = desired(model(**spec), 1, PLATFORM)
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in made}


def pod(**spec: Any) -> dict[str, Any]:
    template: dict[str, Any] = objects(**spec)["Deployment/small"]["spec"]["template"]["spec"]
    return template


def engine(**spec: Any) -> dict[str, Any]:
    container: dict[str, Any] = pod(**spec)["containers"][0]
    return container


@pytest.mark.parametrize(
    ("resources", "image"),
    [
        ({}, "octavo-engine-cpu:1"),
        ({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}, "octavo-engine-cpu:1"),
        ({"limits": {"nvidia.com/gpu": 1}}, "octavo-engine:1"),
        ({"requests": {"amd.com/gpu": 1}, "limits": {"amd.com/gpu": 1}}, "octavo-engine:1"),
    ],
)
def test_pods_without_a_device_run_the_image_without_torch(resources: dict[str, Any], image: str) -> None:
    platform = Platform("octavo-engine:1", engine_cpu_image="octavo-engine-cpu:1")
    assert platform.image_for(resources) == image
    assert Platform("octavo-engine:1").image_for(resources) == "octavo-engine:1"


def test_a_model_gets_these_objects() -> None:
    assert list(objects()) == [
        "ServiceAccount/small",
        "Service/small",
        "Service/small-pods",
        "Deployment/small",
    ]


def test_several_pods_get_a_disruption_budget() -> None:
    assert "PodDisruptionBudget/small" in objects(scaling={"maxReplicas": 2})
    assert "PodDisruptionBudget/small" in objects(replicas=2)
    assert "PodDisruptionBudget/small" not in objects(replicas=1, scaling={"maxReplicas": 2})


def test_a_hugging_face_model_gets_a_cache_that_its_pods_share() -> None:
    spec: dict[str, Any] = {"model": {"uri": "hf://org/name", "revision": "v2", "cache": {"size": "5Gi"}}}
    claim = objects(**spec)["PersistentVolumeClaim/small-cache"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"
    assert {"name": "HF_HOME", "value": "/cache"} in engine(**spec)["env"]
    assert engine(**spec)["args"][1] == "org/name"
    assert "--revision=v2" in engine(**spec)["args"]


@pytest.mark.parametrize(
    ("uri", "argument"),
    [
        ("builtin://smollm2", "smollm2"),
        ("file:///models/a.gguf", "/models/a.gguf"),
        ("pvc://claim/models/a", "/model/models/a"),
        ("pvc://claim", "/model"),
    ],
)
def test_a_uri_becomes_the_model_that_the_engine_is_told(uri: str, argument: str) -> None:
    assert engine(model={"uri": uri})["args"][:2] == ["serve", argument]


def test_a_claim_is_mounted_read_only() -> None:
    assert pod(model={"uri": "pvc://claim/a"})["volumes"][1] == {
        "name": "model",
        "persistentVolumeClaim": {"claimName": "claim", "readOnly": True},
    }


def test_every_setting_reaches_the_engine() -> None:
    arguments = engine(
        model={"uri": "builtin://smollm2", "name": "chat"},
        engine={
            "dtype": "float32",
            "maxModelLen": 1024,
            "quantization": "int8",
            "kvCache": {"memory": "128Mi", "dtype": "int8", "prefixCaching": False},
            "extraArgs": ["--max-num-seqs=8"],
        },
    )["args"]
    assert arguments[2:] == [
        "--host=0.0.0.0",
        "--port=50051",
        "--http",
        "--http-port=8000",
        "--served-name=chat",
        "--grace-period=35",
        "--dtype=float32",
        "--quantization=int8",
        "--max-model-len=1024",
        "--kv-cache-memory=128Mi",
        "--kv-cache-dtype=int8",
        "--no-prefix-caching",
        "--max-num-seqs=8",
    ]


def shared_memory(spec: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Sizes of the volumes in memory, and where they are mounted."""
    volumes = {
        volume["name"]: volume["emptyDir"]["sizeLimit"]
        for volume in pod(**spec)["volumes"]
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    }
    mounts = [mount["mountPath"] for mount in engine(**spec)["volumeMounts"] if mount["name"] in volumes]
    return list(volumes.values()), mounts


def test_several_ranks_get_a_device_each_and_shared_memory() -> None:
    spec = {"parallelism": {"tensor": 4}, "resources": {"limits": {"memory": "64Gi"}}}
    container = engine(**spec)
    assert "--tensor-parallel-size=4" in container["args"]
    assert container["resources"] == {"limits": {"memory": "64Gi", "nvidia.com/gpu": 4}}
    assert shared_memory(spec) == (["1024Mi"], ["/dev/shm"])


def test_one_rank_gets_what_its_resources_say_and_no_more() -> None:
    resources = {"limits": {"nvidia.com/gpu": 2}}
    assert engine(resources=resources)["resources"] == resources
    assert engine()["resources"] == {}
    assert shared_memory({}) == ([], [])
    assert not any("parallel" in argument for argument in engine()["args"])


@pytest.mark.parametrize(
    ("device", "named", "found"),
    [
        (None, {}, {"nvidia.com/gpu": 2}),
        (None, {"amd.com/gpu": 2}, {"amd.com/gpu": 2}),
        (None, {"amd.com/gpu": "2"}, {"amd.com/gpu": 2}),
        ("amd.com/gpu", {}, {"amd.com/gpu": 2}),
        ("amd.com/gpu", {"rdma/hca": 1}, {"rdma/hca": 1, "amd.com/gpu": 2}),
        ("cpu", {}, {}),
    ],
)
def test_the_device_is_what_the_resource_names(
    device: str | None, named: dict[str, Any], found: dict[str, Any]
) -> None:
    spec = {"parallelism": {"tensor": 2, "device": device}, "resources": {"limits": named}}
    assert engine(**spec)["resources"]["limits"] == found
    assert ("--device=cpu" in engine(**spec)["args"]) == (device == "cpu")


@pytest.mark.parametrize(
    ("parallelism", "resources", "field"),
    [
        ({"tensor": 4}, {"limits": {"amd.com/gpu": 2}}, "spec.resources.limits.amd.com/gpu"),
        ({"tensor": 2}, {"requests": {"nvidia.com/gpu": 1}}, "spec.resources.requests.nvidia.com/gpu"),
        ({"tensor": 2}, {"limits": {"amd.com/gpu": 2, "rdma/hca": 1}}, "spec.parallelism.device"),
        ({"device": "cpu"}, {"limits": {"nvidia.com/gpu": 1}}, "spec.parallelism.device"),
    ],
)
def test_devices_that_do_not_match_the_ranks_are_refused(
    parallelism: dict[str, Any], resources: dict[str, Any], field: str
) -> None:
    with pytest.raises(SpecError) as raised:
        engine(parallelism=parallelism, resources=resources)
    assert raised.value.field == field


def test_several_ranks_on_processors_run_the_image_without_torch() -> None:
    platform = Platform("octavo-engine:1", engine_cpu_image="octavo-engine-cpu:1")
    made = desired(model(parallelism={"tensor": 3, "device": "cpu"}), 1, platform)
    [container] = made[-1]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "octavo-engine-cpu:1"


def test_the_server_drains_within_the_grace_of_its_pod() -> None:
    spec = {"podTemplate": {"spec": {"terminationGracePeriodSeconds": 120}}}
    assert pod(**spec)["terminationGracePeriodSeconds"] == 120
    assert "--grace-period=110" in engine(**spec)["args"]


def test_resources_and_image_are_the_specs() -> None:
    resources = {"limits": {"nvidia.com/gpu": 1}}
    container = engine(resources=resources, engine={"image": "mine:2"})
    assert (container["resources"], container["image"]) == (resources, "mine:2")
    assert engine()["image"] == "octavo-engine:1"


def test_without_any_image_the_model_is_refused() -> None:
    with pytest.raises(SpecError, match=r"spec\.engine\.image"):
        desired(model(), 1, Platform())


def test_a_pod_template_that_does_not_fit_is_refused_with_its_field() -> None:
    with pytest.raises(SpecError) as raised:
        objects(podTemplate={"spec": {"containers": "all of them"}})
    assert raised.value.field == "spec.podTemplate.spec.containers"


def test_pods_are_confined_as_the_restricted_standard_asks() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    assert engine()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_a_count_that_another_owns_is_not_written() -> None:
    deployment = desired(model(), None, PLATFORM)[-1]
    assert "replicas" not in deployment["spec"]


@given(names, specs())
def test_two_operators_make_the_same_objects(name: str, spec: dict[str, Any]) -> None:
    assert desired(model(name, **spec), 3, PLATFORM) == desired(model(name, **spec), 3, PLATFORM)


@given(names, specs(), specs())
def test_who_an_object_is_does_not_depend_on_the_spec(
    name: str, spec: dict[str, Any], other: dict[str, Any]
) -> None:
    before = {m["kind"] + m["metadata"]["name"]: m for m in desired(model(name, **spec), 1, PLATFORM)}
    after = {m["kind"] + m["metadata"]["name"]: m for m in desired(model(name, **other), 5, PLATFORM)}
    for key in before.keys() & after.keys():
        assert before[key]["metadata"] == after[key]["metadata"]
    assert before["Deployment" + name]["spec"]["selector"] == after["Deployment" + name]["spec"]["selector"]


@given(names, specs())
def test_every_object_is_labelled_owned_and_well_named(name: str, spec: dict[str, Any]) -> None:
    for manifest in desired(model(name, **spec), 1, PLATFORM):
        metadata = manifest["metadata"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"])
        assert metadata["labels"] == labels(name)
        (owner,) = metadata["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (f"uid-of-{name}", True)


@given(names, specs())
def test_pods_always_have_the_labels_that_select_them(name: str, spec: dict[str, Any]) -> None:
    template = desired(model(name, **spec), 1, PLATFORM)[-1]["spec"]["template"]
    assert selector(name).items() <= template["metadata"]["labels"].items()
    assert selector_string(name).count("=") == len(selector(name))
