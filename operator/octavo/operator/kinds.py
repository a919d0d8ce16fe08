"""The kinds of objects that the operator reads and writes, and where the API server has them."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.operator.model import API_VERSION, KIND, PLURAL


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind as it stands in objects, and its plural as it stands in URLs."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The URL's path of one object, or of all in a namespace, or of all there are."""
        root = "/apis/" if "/" in self.api_version else "/api/"
        steps = [root + self.api_version]
        if namespace is not None:
            steps.append(f"namespaces/{namespace}")
        steps.append(self.plural)
        if name is not None:
            steps.append(name)
        if subresource:
            steps.append(subresource)
        return "/".join(steps)


MODEL = Kind(API_VERSION, KIND, PLURAL)
POD = Kind("v1", "Pod", "pods")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
SERVICE = Kind("v1", "Service", "services")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
ENDPOINT_SLICE = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
EVENT = Kind("events.k8s.io/v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")

MADE = (SERVICE_ACCOUNT, CLAIM, SERVICE, DISRUPTION_BUDGET, DEPLOYMENT)
"""What the operator makes, and takes away when it is no longer wanted."""

WATCHED = (MODEL, *MADE, POD, ENDPOINT_SLICE)
"""What a model's reconciliation depends on."""

BY_NAME = {kind.kind: kind for kind in (*WATCHED, EVENT, LEASE)}
