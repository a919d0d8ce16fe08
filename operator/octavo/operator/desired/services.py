"""How the pods are reached, and what they are to the API server: nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.operator.desired.identity import owned, selector
from octavo.operator.desired.pod import GRPC_PORT, HTTP_PORT

if TYPE_CHECKING:
    from octavo.operator.desired.identity import Manifest
    from octavo.operator.model import InferenceModel

PORTS = [
    {
        "name": "grpc",
        "port": GRPC_PORT,
        "targetPort": "grpc",
        "protocol": "TCP",
        "appProtocol": "kubernetes.io/h2c",
    },
    {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"},
]


def service(model: InferenceModel) -> Manifest:
    """One address for all ready pods: for clients that go past the gateway."""
    made = owned(model, "v1", "Service")
    made["spec"] = {"type": "ClusterIP", "selector": selector(model.name), "ports": PORTS}
    return made


def service_of_pods(model: InferenceModel) -> Manifest:
    """Every pod by its own address. Its EndpointSlices are what the gateway follows."""
    made = owned(model, "v1", "Service", "-pods")
    made["spec"] = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "selector": selector(model.name),
        "ports": PORTS,
    }
    return made


def service_account(model: InferenceModel) -> Manifest:
    """An account of the pods' own, without rights and without a token in the pods."""
    made = owned(model, "v1", "ServiceAccount")
    made["automountServiceAccountToken"] = False
    return made
