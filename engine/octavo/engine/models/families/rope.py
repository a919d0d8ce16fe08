"""The rotary embedding that a config.json describes, in its old and its new style."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.engine.models.config import Config
from octavo.engine.models.spec import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
)

SUPPORTED = ("default", "linear", "dynamic", "llama3", "yarn")


def rope_spec(config: Config, head_dim: int) -> RopeSpec:
    """Reads `rope_parameters` (Transformers 5), else `rope_theta` and `rope_scaling`.

    As in Transformers, `rope_scaling` wins where both are given, and `type` is the old name of `rope_type`.
    """
    outer: dict[str, Any] = {
        "rope_theta": config.values.get("rope_theta", 10_000.0),
        "partial_rotary_factor": config.values.get("partial_rotary_factor", 1.0),
    }
    key = next((key for key in ("rope_scaling", "rope_parameters") if config.get(key)), None)
    rope = config.section(key, outer) if key else Config(config.source, {}, outer)
    if key and any(isinstance(value, Mapping) for value in rope.values.values()):
        raise config.refusal(key, "must be the same for all layers")
    if rope.number("partial_rotary_factor") > 1:
        raise rope.refusal("partial_rotary_factor", "must be at most 1")
    rotary_dim = int(head_dim * rope.number("partial_rotary_factor"))
    if rotary_dim % 2:
        raise config.refusal("head_dim", f"must rotate an even number of elements, not {rotary_dim}")
    return RopeSpec(rope.number("rope_theta"), rotary_dim, _scaling(config, rope))


def _scaling(config: Config, rope: Config) -> RopeScaling | None:
    kind_key = "rope_type" if rope.get("rope_type") is not None else "type"
    match rope.get(kind_key):
        case None | "default":
            return None
        case "linear":
            return LinearScaling(rope.number("factor"))
        case "dynamic":
            return DynamicScaling(rope.number("factor"), config.integer("max_position_embeddings"))
        case "llama3":
            return Llama3Scaling(
                factor=rope.number("factor"),
                low_freq_factor=rope.number("low_freq_factor"),
                high_freq_factor=rope.number("high_freq_factor"),
                original_max_position=_original_max_position(config, rope),
            )
        case "yarn":
            return _yarn(config, rope)
        case _:
            raise rope.refusal(kind_key, f"is not supported; supported are {', '.join(SUPPORTED)}")


def _yarn(config: Config, rope: Config) -> YarnScaling:
    original = _original_max_position(config, rope)

    def optional(key: str) -> float | None:
        return None if rope.get(key) is None else rope.number(key)

    return YarnScaling(
        factor=optional("factor") or config.integer("max_position_embeddings") / original,
        original_max_position=original,
        beta_fast=optional("beta_fast") or 32.0,
        beta_slow=optional("beta_slow") or 1.0,
        attention_factor=optional("attention_factor"),
        mscale=optional("mscale"),
        mscale_all_dim=optional("mscale_all_dim"),
        truncate=True if rope.get("truncate") is None else rope.flag("truncate"),
    )


def _original_max_position(config: Config, rope: Config) -> int:
    """Outside the rope parameters it has precedence, as in Transformers; missing, nothing was stretched."""
    key = "original_max_position_embeddings"
    if config.get(key) is not None:
        return config.integer(key)
    return rope.integer(key) if rope.get(key) is not None else config.integer("max_position_embeddings")
