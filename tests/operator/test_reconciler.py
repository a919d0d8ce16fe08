"""Reconciling makes what is missing, writes nothing that is there, and tells what it could not do."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from octavo.operator.announcer import Announcer
from octavo.operator.applier import Applier
from octavo.operator.cluster import ApiError, NotLeading
from octavo.operator.desired import Platform
from octavo.operator.index import Index, Key
from octavo.operator.kinds import BY_NAME, MODEL
from octavo.operator.metrics import Metrics
from octavo.operator.reconciler import Reconciler, Surroundings
from octavo.operator.status import Doors
from tests.operator.api import FakeCluster
from tests.operator.models import resource

KEY = Key("lab", "small")


class NoLoads:
    """Pods that tell nothing."""

    def watch(self, model: str, pods: dict[str, str]) -> None: ...
    def forget(self, model: str) -> None: ...
    def snapshot(self, model: str) -> dict[str, Any]:
        return {}


class World:
    """A cluster with one model, and operators to work on it."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.now = 1_800_000_000.0
        self.operator, self.index = self.another_operator()

    def another_operator(self) -> tuple[Reconciler, Index]:
        index: Any = Index()
        cluster: Any = self.cluster
        return (
            Reconciler(
                cluster,
                index,
                Applier(cluster, index),
                NoLoads(),  # type: ignore[arg-type]
                Announcer(cluster, "test"),
                Metrics(),
                Surroundings(Platform("octavo-engine:1"), Doors("gateway:50051", "http://gateway:8000")),
                clock=lambda: self.now,
            ),
            index,
        )

    def set(self, **spec: Any) -> None:
        """Somebody applies the model."""
        live = self.cluster.objects.get(("InferenceModel", "lab", "small"), {})
        made = resource("small", **spec)
        made["metadata"]["generation"] = live.get("metadata", {}).get("generation", 0) + 1
        self.cluster.put({**made, **({"status": live["status"]} if "status" in live else {})})

    def change(self, kind: str, name: str, **parts: Any) -> None:
        """Somebody else changes an object."""
        live = deepcopy(self.cluster.objects[kind, "lab", name])
        for part, value in parts.items():
            live[part] = {**live.get(part, {}), **value}
        self.cluster.put(live)

    async def reconcile(self, operator: Reconciler | None = None, index: Index | None = None) -> bool:
        """The operator sees everything, and works."""
        index = index or self.index
        for kind in {name for name, _, _ in self.cluster.objects} - {"Event", "Lease"}:
            objects = [each for slot, each in self.cluster.objects.items() if slot[0] == kind]
            index.replace(BY_NAME[kind], deepcopy(objects))
        return await (operator or self.operator).reconcile(KEY)

    def condition(self, type_: str) -> tuple[str, str]:
        conditions = self.cluster.objects["InferenceModel", "lab", "small"]["status"]["conditions"]
        found = next(each for each in conditions if each["type"] == type_)
        return found["status"], found["reason"]

    @property
    def objects(self) -> set[str]:
        return {
            f"{kind}/{name}" for kind, _, name in self.cluster.objects if kind not in ("Event", MODEL.kind)
        }


@pytest.fixture
def world() -> World:
    made = World()
    made.set()
    return made


async def test_a_new_model_gets_its_objects_and_a_status(world: World) -> None:
    assert await world.reconcile()
    assert world.objects == {
        "ServiceAccount/small", "Service/small", "Service/small-pods", "Deployment/small"
    }  # fmt: skip
    status = world.cluster.objects["InferenceModel", "lab", "small"]["status"]
    assert (status["observedGeneration"], status["desiredReplicas"]) == (1, 1)
    assert status["endpoints"]["openai"] == "http://gateway:8000/v1"
    assert world.condition("Ready") == ("False", "Starting")


async def test_reconciling_again_writes_nothing(world: World) -> None:
    await world.reconcile()
    await world.reconcile()  # its own writes have been seen by now
    world.cluster.writes.clear()
    for _ in range(3):
        world.now += 60
        await world.reconcile()
    assert world.cluster.writes == []


async def test_an_operator_that_starts_anew_changes_nothing(world: World) -> None:
    await world.reconcile()
    await world.reconcile()
    world.cluster.writes.clear()
    await world.reconcile(*world.another_operator())
    assert [write for write in world.cluster.writes if not write.startswith("Event")] == []


async def test_what_somebody_changed_is_put_right(world: World) -> None:
    await world.reconcile()
    world.change("Service", "small-pods", spec={"clusterIP": "10.0.0.9"})
    await world.reconcile()
    assert world.cluster.objects["Service", "lab", "small-pods"]["spec"]["clusterIP"] == "None"


async def test_what_somebody_deleted_is_made_again(world: World) -> None:
    await world.reconcile()
    del world.cluster.objects["Service", "lab", "small"]
    await world.reconcile()
    assert "Service/small" in world.objects


async def test_what_is_no_longer_wanted_goes(world: World) -> None:
    world.set(scaling={"maxReplicas": 3})
    await world.reconcile()
    assert "PodDisruptionBudget/small" in world.objects
    world.set(scaling={"maxReplicas": 1})
    await world.reconcile()
    assert "PodDisruptionBudget/small" not in world.objects


async def test_an_object_of_somebody_else_is_left_alone(world: World) -> None:
    theirs = {"kind": "Service", "metadata": {"namespace": "lab", "name": "small"}, "spec": {"ports": []}}
    world.cluster.put(theirs)
    assert not await world.reconcile()
    assert world.cluster.objects["Service", "lab", "small"]["spec"] == {"ports": []}
    assert world.condition("Ready") == ("False", "NameTaken")
    assert "Deployment/small" in world.objects


async def test_what_the_api_server_refuses_is_told_and_tried_again(world: World) -> None:
    world.cluster.refusals["Deployment"] = ApiError(403, "Forbidden", "exceeded quota")
    assert not await world.reconcile()
    assert world.condition("Degraded") == ("True", "Forbidden")
    world.cluster.refusals.clear()
    assert await world.reconcile()
    assert world.condition("Degraded") == ("False", "AsExpected")


async def test_a_spec_that_cannot_be_served_leaves_what_serves(world: World) -> None:
    await world.reconcile()
    world.set(podTemplate={"spec": {"containers": "all of them"}})
    assert await world.reconcile()
    assert world.condition("Accepted") == ("False", "InvalidSpec")
    assert "Deployment/small" in world.objects


async def test_replicas_that_another_set_are_left_alone(world: World) -> None:
    await world.reconcile()
    world.change(
        "Deployment",
        "small",
        spec={"replicas": 4},
        metadata={"managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]},
    )
    await world.reconcile()
    status = world.cluster.objects["InferenceModel", "lab", "small"]["status"]
    assert world.condition("ScalingActive") == ("False", "ReplicasOwnedByOther")
    assert status["desiredReplicas"] == 4


async def test_the_scale_subresource_decides_the_count(world: World) -> None:
    world.set(replicas=3)
    await world.reconcile()
    assert world.cluster.objects["Deployment", "lab", "small"]["spec"]["replicas"] == 3
    assert world.condition("ScalingActive") == ("False", "ReplicasFixed")


async def test_the_gateways_demand_is_not_written_by_the_operator(world: World) -> None:
    await world.reconcile()
    demand = [{"gateway": "g", "waiting": 1, "renewedAt": "2027-01-15T08:00:00Z"}]
    world.change("InferenceModel", "small", status={"demand": demand})
    world.cluster.writes.clear()
    world.set(replicas=2)
    await world.reconcile()
    assert "demand" not in world.cluster.objects["InferenceModel", "lab", "small"]["status"]


async def test_of_two_models_of_one_name_the_older_is_routed_to(world: World) -> None:
    older = resource("older", model={"uri": "builtin://smollm2", "name": "small"})
    older["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    world.cluster.put(older)
    await world.reconcile()
    assert world.condition("RoutingReady") == ("False", "ModelNameTaken")


async def test_a_model_that_is_being_deleted_is_left_to_go(world: World) -> None:
    world.change("InferenceModel", "small", metadata={"deletionTimestamp": "2027-01-15T08:00:00Z"})
    assert await world.reconcile()
    assert world.objects == set()


async def test_an_operator_that_lost_the_lease_writes_nothing(world: World) -> None:
    world.cluster.may_write = False
    world.cluster.writes.clear()
    with pytest.raises(NotLeading):
        await world.reconcile()
    assert world.cluster.writes == []
