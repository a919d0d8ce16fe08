"""The objects that an InferenceModel should have: a pure function, the same for every operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.operator.desired.cache import cache_claim
from octavo.operator.desired.deployment import deployment
from octavo.operator.desired.disruption import disruption_budget
from octavo.operator.desired.identity import Manifest
from octavo.operator.desired.platform import Platform
from octavo.operator.desired.services import service, service_account, service_of_pods

if TYPE_CHECKING:
    from octavo.operator.model import InferenceModel

__all__ = ["Manifest", "Platform", "desired"]


def desired(model: InferenceModel, replicas: int | None, platform: Platform) -> tuple[Manifest, ...]:
    """All objects of the model, in the order in which to make them.

    replicas: of the Deployment; None leaves them to another owner of that field. SpecError for a model that
    cannot be launched as it is.
    """
    made = (
        service_account(model),
        cache_claim(model),
        service(model),
        service_of_pods(model),
        disruption_budget(model),
        deployment(model, replicas, platform),
    )
    return tuple(manifest for manifest in made if manifest is not None)
