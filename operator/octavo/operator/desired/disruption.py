"""What node drains may take at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.operator.desired.identity import owned, selector

if TYPE_CHECKING:
    from octavo.operator.desired.identity import Manifest
    from octavo.operator.model import InferenceModel


def disruption_budget(model: InferenceModel) -> Manifest | None:
    """One pod at a time, for models that may have several; one pod alone must not block a drain."""
    most = model.spec.replicas if model.spec.replicas is not None else model.spec.scaling.max_replicas
    if most < 2:
        return None
    made = owned(model, "policy/v1", "PodDisruptionBudget")
    made["spec"] = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": selector(model.name)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return made
