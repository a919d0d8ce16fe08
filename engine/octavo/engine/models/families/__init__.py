"""The model families that a DecoderSpec can describe, and which one a checkpoint belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.errors import ModelError
from octavo.engine.models.families.family import Family
from octavo.engine.models.families.llama import LLAMA
from octavo.engine.models.families.mistral import MISTRAL
from octavo.engine.models.families.qwen2 import QWEN2
from octavo.engine.models.families.qwen3 import QWEN3

if TYPE_CHECKING:
    from octavo.engine.models.config import Config

FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3)

__all__ = ["FAMILIES", "Family", "family_of_gguf", "family_of_hugging_face"]


def family_of_hugging_face(config: Config) -> Family:
    """The family of a config.json, by `architectures` or, where that is missing, by `model_type`.

    Raises ModelError for an architecture that is not supported.
    """
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) and architectures else [config.get("model_type")]
    for family in FAMILIES:
        if family.architecture in names or (not architectures and family.name in names):
            return family
    supported = ", ".join(family.architecture for family in FAMILIES)
    found = ", ".join(map(str, names))
    raise ModelError(f"{config.source}: architecture {found} is not supported; supported are {supported}")


def family_of_gguf(architecture: str, source: str) -> Family:
    """The family of a GGUF file's `general.architecture`. Raises ModelError for one that is not supported."""
    known = {family.gguf_architecture: family for family in FAMILIES if family.gguf_architecture}
    if architecture not in known:
        raise ModelError(
            f"{source}: architecture {architecture} is not supported; supported are {', '.join(known)}"
        )
    return known[architecture]
