"""Endpoints from Kubernetes: InferenceModels tell the models, EndpointSlices where their pods are."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from octavo.service.gateway.endpoints.address import host_and_port
from octavo.service.gateway.endpoints.source import Route
from octavo.service.gateway.kubernetes.mirror import Mirror
from octavo.service.gateway.scorers import RoutingPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from octavo.service.gateway.kubernetes.api import Api, Object

log = logging.getLogger(__name__)

MODELS = "/apis/serving.octavo.dev/v1alpha1"
SLICES = "/apis/discovery.k8s.io/v1"
MODEL_LABEL = "serving.octavo.dev/model"
"""What the operator puts on a model's Services, and Kubernetes then on their EndpointSlices."""
PORT = "grpc"
"""Name of the port of a pod's gRPC server."""

T = TypeVar("T")
Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What an InferenceModel says to the gateway."""

    name: str
    """As requests give it."""
    created: str
    policy: RoutingPolicy
    waits: bool


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """What an EndpointSlice says to the gateway."""

    service: str
    addresses: frozenset[str]


class KubernetesSource:
    """Watches the resources of some namespaces, or of all."""

    def __init__(self, api: Api, namespaces: Sequence[str] = (), random: Random | None = None) -> None:
        self._changed = asyncio.Event()
        self._owners: Mapping[str, Key] = {}
        tell, chance = self._changed.set, random or Random()
        scopes = [f"/namespaces/{namespace}" for namespace in namespaces] or [""]
        self._models = [
            Mirror(api, f"{MODELS}{scope}/inferencemodels", read_model, tell, chance) for scope in scopes
        ]
        self._slices = [
            Mirror(api, f"{SLICES}{scope}/endpointslices", read_slice, tell, chance, selector=MODEL_LABEL)
            for scope in scopes
        ]

    def resource(self, model: str) -> Key | None:
        """Namespace and name of the InferenceModel that defines a model."""
        return self._owners.get(model)

    async def routes(self) -> AsyncIterator[Mapping[str, Route]]:
        watched: tuple[Mirror[Any], ...] = (*self._models, *self._slices)
        mirrors = [asyncio.create_task(mirror.run()) for mirror in watched]
        told: Mapping[str, Route] | None = None
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if not all(mirror.synced for mirror in watched):
                    continue
                models = _merged(self._models)
                self._owners = owners(models)
                routes = routes_of(self._owners, models, _merged(self._slices))
                if routes != told:
                    told = routes
                    yield routes
        finally:
            for mirror in mirrors:
                mirror.cancel()
            await asyncio.gather(*mirrors, return_exceptions=True)


def _merged(mirrors: Sequence[Mirror[T]]) -> dict[Key, T]:
    """The objects of all namespaces."""
    return {key: found for mirror in mirrors for key, found in mirror.objects.items()}


def owners(models: Mapping[Key, ModelRecord]) -> dict[str, Key]:
    """Which resource defines which model: of two with the same name, the older one."""
    found: dict[str, Key] = {}
    for key, model in sorted(models.items(), key=lambda item: (item[1].created, item[0])):
        found.setdefault(model.name, key)
    return found


def routes_of(
    owners: Mapping[str, Key], models: Mapping[Key, ModelRecord], slices: Mapping[Key, SliceRecord]
) -> dict[str, Route]:
    """Each model's route: its resource's policy, and the addresses of the Service `<resource>-pods`."""
    addresses: dict[Key, frozenset[str]] = {}
    for (namespace, _), part in slices.items():
        service = (namespace, part.service)
        addresses[service] = addresses.get(service, frozenset()) | part.addresses
    return {
        name: Route(
            addresses.get((namespace, f"{resource}-pods"), frozenset()),
            models[namespace, resource].policy,
            models[namespace, resource].waits,
        )
        for name, (namespace, resource) in owners.items()
    }


def read_model(found: Object) -> ModelRecord:
    metadata, spec = found["metadata"], found.get("spec") or {}
    routing = spec.get("routing") or {}
    weights = {name: float(weight) for name, weight in (routing.get("weights") or {}).items()}
    return ModelRecord(
        name=(spec.get("model") or {}).get("name") or metadata["name"],
        created=metadata["creationTimestamp"],
        policy=RoutingPolicy(weights, routing.get("sessionAffinity", True)),
        # At zero because somebody has said so, nothing will wake it.
        waits=spec.get("replicas") != 0,
    )


def read_slice(found: Object) -> SliceRecord:
    """Addresses of all pods, ready or not: whether one is used is for our own watch on it to say."""
    labels = found["metadata"].get("labels") or {}
    port = next((port["port"] for port in found.get("ports") or () if port.get("name") == PORT), None)
    addresses = (
        host_and_port(endpoint["addresses"][0], port)
        for endpoint in found.get("endpoints") or ()
        if port is not None
    )
    return SliceRecord(labels.get("kubernetes.io/service-name", ""), frozenset(addresses))
