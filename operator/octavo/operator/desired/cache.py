"""The volume that keeps what was downloaded from Hugging Face."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.operator.desired.identity import owned

if TYPE_CHECKING:
    from octavo.operator.desired.identity import Manifest
    from octavo.operator.model import InferenceModel

SUFFIX = "-cache"


def cache_claim(model: InferenceModel) -> Manifest | None:
    """A claim for models from hf://; None for others, which are where they are."""
    if not model.spec.model.uri.startswith("hf://"):
        return None
    cache = model.spec.model.cache
    made = owned(model, "v1", "PersistentVolumeClaim", SUFFIX)
    made["spec"] = {
        "accessModes": [cache.access_mode],
        "resources": {"requests": {"storage": cache.size}},
    }
    if cache.storage_class_name is not None:
        made["spec"]["storageClassName"] = cache.storage_class_name
    return made
