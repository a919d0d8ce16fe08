"""One model from what it is to what it should be. Level-triggered: any event, or none, leads here."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any

from octavo.operator import autoscaler
from octavo.operator.applier import Taken
from octavo.operator.autoscaler import Demand, Memory, deletion_costs
from octavo.operator.cluster import FIELD_MANAGER, ApiError
from octavo.operator.conditions import conditions, refused
from octavo.operator.count import count
from octavo.operator.desired import Platform, desired
from octavo.operator.desired.pod import GRPC_PORT
from octavo.operator.kinds import DEPLOYMENT, ENDPOINT_SLICE, MODEL, POD
from octavo.operator.model import SpecError, parse
from octavo.operator.observed import Observed, Problem, observe
from octavo.operator.status import Doors, own_part, status_of, status_of_refused, steady_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from octavo.operator.announcer import Announcer
    from octavo.operator.applier import Applier
    from octavo.operator.cluster import Cluster
    from octavo.operator.count import Count
    from octavo.operator.desired import Manifest
    from octavo.operator.index import Index, Key
    from octavo.operator.load import LoadWatcher, Sample
    from octavo.operator.metrics import Metrics
    from octavo.operator.model import InferenceModel

log = logging.getLogger("octavo.operator.reconciler")

NOISE_INTERVAL = 5.0
"""Seconds between two writes of a status in which only the load's figures have changed."""

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the operator was told of the cluster it works in."""

    platform: Platform = field(default_factory=Platform)
    doors: Doors = field(default_factory=Doors)


class Reconciler:
    """Reads the index and the pods' loads, and writes through the applier.

    `clock` tells seconds since the epoch.
    """

    def __init__(
        self,
        cluster: Cluster,
        index: Index,
        applier: Applier,
        loads: LoadWatcher,
        announcer: Announcer,
        metrics: Metrics,
        surroundings: Surroundings,
        clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._index = index
        self._applier = applier
        self._loads = loads
        self._announcer = announcer
        self._metrics = metrics
        self._surroundings = surroundings
        self._clock = clock
        self._memories: dict[str, Memory] = {}
        self._noise_written: dict[str, float] = {}
        self._uids: dict[Key, str] = {}

    async def reconcile(self, key: Key) -> bool:
        """Whether the cluster is now as it should be; if not, the status says why, and a retry may help.

        Raises ApiError if not even the status could be written, NotLeading.
        """
        resource = self._index.models.get(key)
        if resource is None or resource["metadata"].get("uid") != self._uids.get(key):
            self._forget(key)
        if resource is None or "deletionTimestamp" in resource["metadata"]:
            return True
        self._uids[key] = resource["metadata"]["uid"]
        try:
            model = parse(resource)
            desired(model, None, self._surroundings.platform)
        except SpecError as error:
            await self._refuse(resource, error)
            return True
        return await self._serve(key, resource, model)

    @property
    def known(self) -> Iterable[Key]:
        """The models that were reconciled and are not forgotten yet."""
        return self._uids.keys()

    def restart(self) -> None:
        """Forgets what belongs to an earlier time as the acting operator."""
        for key in list(self._uids):
            self._forget(key)

    async def _refuse(self, resource: Manifest, error: SpecError) -> None:
        made = refused("InvalidSpec", str(error))
        before = resource.get("status", {}).get("conditions", ())
        await self._write_status(resource, status_of_refused(resource, made, self._clock()))
        await self._announcer.conditions(resource, before, made)
        self._metrics.reconciles.labels("refused").inc()

    async def _serve(self, key: Key, resource: Manifest, model: InferenceModel) -> bool:
        now = self._clock()
        observed = self._observe(key, model, now)
        samples = self._watch_loads(key, observed)
        pods = _pods(observed, samples)
        memory = self._memories.get(model.uid)
        if memory is None:
            memory = Memory.from_status(resource.get("status", {}).get("scaling", {}))
        demand = _demand(resource, now)
        counted = count(model, observed, pods, demand, memory, now)
        failure = await self._make(key, resource, model, observed, pods, counted)
        self._memories[model.uid] = counted.memory  # what was seen stays seen, whatever became of it
        self._metrics.desired.labels(*key).set(counted.desired)

        observed = self._observe(key, model, now)
        rival = self._rival(key, model)
        made = conditions(observed, counted, failure, rival)
        before = resource.get("status", {})
        fresh = [pod.fresh_load for pod in pods if pod.fresh_load is not None]
        status = status_of(model, before, observed, counted, fresh, made, self._surroundings.doors, now)
        await self._write_status(resource, status)
        await self._announcer.conditions(resource, before.get("conditions", ()), made)
        self._metrics.reconciles.labels("failed" if failure else "done").inc()
        return failure is None

    def _observe(self, key: Key, model: InferenceModel, now: float) -> Observed:
        deployments = self._index.children(key, DEPLOYMENT)
        deployment = next((each for each in deployments if each["metadata"]["name"] == key.name), None)
        if deployment and "deletionTimestamp" in deployment["metadata"]:
            deployment = None
        service = f"{model.name}-pods"
        slices = [
            each
            for each in self._index.children(key, ENDPOINT_SLICE)
            if each["metadata"]["labels"].get("kubernetes.io/service-name") == service
        ]
        return observe(deployment, self._index.children(key, POD), slices, FIELD_MANAGER, now)

    def _watch_loads(self, key: Key, observed: Observed) -> Mapping[str, Sample]:
        addresses = {pod.name: _host_port(pod.address) for pod in observed.pods if pod.address}
        self._loads.watch(str(key), addresses)
        return self._loads.snapshot(str(key))

    async def _make(
        self,
        key: Key,
        resource: Manifest,
        model: InferenceModel,
        observed: Observed,
        pods: tuple[autoscaler.Pod, ...],
        counted: Count,
    ) -> Problem | None:
        """Applies the objects; what was refused, if anything was. Whatever can be made is made."""
        replicas = counted.desired if counted.written else None
        manifests = desired(model, replicas, self._surroundings.platform)
        failure = None
        if observed.exists and counted.written and counted.desired < observed.spec_replicas:
            await self._mark_emptiest(key, observed, pods)
        for manifest in manifests:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            try:
                if await self._applier.apply(model, key, manifest):
                    self._metrics.writes.labels(kind).inc()
                    if kind == DEPLOYMENT.kind:
                        await self._announce_count(resource, observed, counted)
            except Taken as error:
                failure = failure or Problem(error.reason, str(error))
            except ApiError as error:
                if error.passing:
                    raise
                log.warning("%s: %s %s: %s", key, kind, name, error)
                failure = failure or Problem(error.reason, f"{kind} {name}: {error}")
        if failure is None:
            await self._applier.prune(model, key, manifests)
        return failure

    async def _announce_count(self, resource: Manifest, observed: Observed, counted: Count) -> None:
        if not counted.written or counted.desired == observed.spec_replicas:
            return
        change = f"{observed.spec_replicas} → {counted.desired}"
        note = counted.message if change in counted.message else f"{change}: {counted.message}"
        log.info("%s/%s: %s", resource["metadata"]["namespace"], resource["metadata"]["name"], note)
        await self._announcer.tell(resource, "Normal", "Scale", counted.reason, note)

    async def _mark_emptiest(self, key: Key, observed: Observed, pods: tuple[autoscaler.Pod, ...]) -> None:
        """Tells Kubernetes which pods are to go first; without that it takes the youngest."""
        known = {pod.name: pod.deletion_cost for pod in observed.pods}
        for name, cost in deletion_costs(pods).items():
            if known.get(name) == str(cost):
                continue
            try:
                pod = await self._cluster.annotate(POD, key.namespace, name, {DELETION_COST: str(cost)})
                self._index.put(POD, pod)
            except ApiError as error:
                if error.status != 404:
                    log.warning("%s: cannot mark pod %s: %s", key, name, error)

    def _rival(self, key: Key, model: InferenceModel) -> str | None:
        """The oldest other resource that claims the same model name and is older than this one."""
        claims = [
            (other["metadata"].get("creationTimestamp", ""), at)
            for at, other in self._index.models.items()
            if at != key and _claimed_name(other) == model.model_name
        ]
        oldest = min(claims, default=None)
        return str(oldest[1]) if oldest and oldest < (model.created, key) else None

    async def _write_status(self, resource: Manifest, status: dict[str, Any]) -> None:
        """Writes only what has changed; changes of the load alone at most every few seconds."""
        before, uid = own_part(resource), resource["metadata"]["uid"]
        if status == before:
            return
        now = self._clock()
        if steady_part(status) == steady_part(before):
            if now - self._noise_written.get(uid, 0.0) < NOISE_INTERVAL:
                return
            self._noise_written[uid] = now
        metadata = resource["metadata"]
        manifest = {
            "apiVersion": MODEL.api_version,
            "kind": MODEL.kind,
            "metadata": {"namespace": metadata["namespace"], "name": metadata["name"], "uid": uid},
            "status": status,
        }
        try:
            written = await self._cluster.apply(manifest, force=True, subresource="status")
        except ApiError as error:
            if error.status in (404, 409):
                return  # deleted meanwhile, or made anew under the same name
            raise
        self._metrics.writes.labels(MODEL.kind).inc()
        self._index.put(MODEL, written)

    def _forget(self, key: Key) -> None:
        uid = self._uids.pop(key, None)
        if uid is None:
            return
        self._memories.pop(uid, None)
        self._noise_written.pop(uid, None)
        self._applier.forget(key)
        self._loads.forget(str(key))
        with suppress(KeyError):
            self._metrics.desired.remove(*key)


def _pods(observed: Observed, samples: Mapping[str, Sample]) -> tuple[autoscaler.Pod, ...]:
    made = []
    for pod in observed.pods:
        sample = samples.get(pod.name)
        load, age = (sample.load, sample.age) if sample else (None, inf)
        made.append(autoscaler.Pod(pod.name, pod.ready, pod.terminating, load, age))
    return tuple(made)


def _claimed_name(resource: Manifest) -> str:
    """The model name, of a resource that need not be valid."""
    model = resource.get("spec", {}).get("model")
    name = model.get("name") if isinstance(model, dict) else None
    return str(name or resource["metadata"]["name"])


def _demand(resource: Manifest, now: float) -> tuple[Demand, ...]:
    """What the gateways say; an entry that cannot be read does not count."""
    made = []
    for entry in resource.get("status", {}).get("demand") or ():
        with suppress(KeyError, TypeError, ValueError):
            age = now - datetime.fromisoformat(entry["renewedAt"]).timestamp()
            made.append(Demand(int(entry["waiting"]), age))
    return tuple(made)


def _host_port(address: str) -> str:
    return f"[{address}]:{GRPC_PORT}" if ":" in address else f"{address}:{GRPC_PORT}"
