"""The Deployment of engine pods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.operator.desired.identity import owned, selector
from octavo.operator.desired.pod import pod_template

if TYPE_CHECKING:
    from octavo.operator.desired.identity import Manifest
    from octavo.operator.desired.platform import Platform
    from octavo.operator.model import InferenceModel

PROGRESS_DEADLINE = 600
"""Seconds without progress until a rollout counts as failed. A large model loads for minutes; what fails
sooner and visibly is told from the pods' own states."""


def deployment(model: InferenceModel, replicas: int | None, platform: Platform) -> Manifest:
    """A rollout starts a new pod first and stops an old one only when that is ready."""
    made = owned(model, "apps/v1", "Deployment")
    made["spec"] = {
        "selector": {"matchLabels": selector(model.name)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "progressDeadlineSeconds": PROGRESS_DEADLINE,
        "revisionHistoryLimit": 2,
        "template": pod_template(model, platform),
    }
    if replicas is not None:
        made["spec"]["replicas"] = replicas
    return made
