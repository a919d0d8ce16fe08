"""How a model's objects are called, labelled and owned. Stable: none of it depends on the spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from octavo.operator.model import API_VERSION, GROUP, KIND

if TYPE_CHECKING:
    from octavo.operator.model import InferenceModel

Manifest = dict[str, Any]
"""A Kubernetes object as its JSON."""

MANAGED_BY = "octavo-operator"
MODEL_LABEL = f"{GROUP}/model"


def labels(name: str) -> dict[str, str]:
    """The labels of every object of the resource called `name`."""
    return {
        **selector(name),
        "app.kubernetes.io/managed-by": MANAGED_BY,
        MODEL_LABEL: name,
    }


def selector(name: str) -> dict[str, str]:
    """The labels that select its pods. A Deployment's selector cannot change, so neither can these."""
    return {"app.kubernetes.io/name": "octavo-engine", "app.kubernetes.io/instance": name}


def selector_string(name: str) -> str:
    """The same, as the scale subresource has it."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(name).items()))


def owned(model: InferenceModel, api_version: str, kind: str, suffix: str = "") -> Manifest:
    """An object of the model with nothing in it yet; it goes when the model goes."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": model.name + suffix,
            "namespace": model.namespace,
            "labels": labels(model.name),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": model.name,
                    "uid": model.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }
