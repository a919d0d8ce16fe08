"""Where a model comes from: what its URI means for the engine's arguments and the pod's volumes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from octavo.operator.desired.cache import SUFFIX
from octavo.operator.model import URI

if TYPE_CHECKING:
    from octavo.operator.model import InferenceModel

CACHE_FOLDER = "/cache"
MODEL_FOLDER = "/model"


@dataclass(frozen=True, slots=True)
class Source:
    """What one URI becomes in a pod."""

    argument: str
    """The model, as `octavo serve` takes it."""
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    volumes: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()


def source(model: InferenceModel) -> Source:
    """The source of a parsed model; its URI is one of the four kinds."""
    match = URI.fullmatch(model.spec.model.uri)
    assert match
    if repository := match["hf"]:
        revision = model.spec.model.revision
        claim = {"claimName": model.name + SUFFIX}
        return Source(
            argument=repository,
            flags=(f"--revision={revision}",) if revision else (),
            environment={"HF_HOME": CACHE_FOLDER},
            volumes=({"name": "cache", "persistentVolumeClaim": claim},),
            mounts=({"name": "cache", "mountPath": CACHE_FOLDER},),
        )
    if claim_name := match["claim"]:
        return Source(
            argument=(MODEL_FOLDER + (match["path"] or "")).rstrip("/"),
            volumes=(
                {"name": "model", "persistentVolumeClaim": {"claimName": claim_name, "readOnly": True}},
            ),
            mounts=({"name": "model", "mountPath": MODEL_FOLDER, "readOnly": True},),
        )
    if path := match["file"]:
        return Source(argument=path)
    return Source(argument=match["builtin"])
