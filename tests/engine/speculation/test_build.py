"""What configuration makes a speculator, and what it may not say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from octavo.engine.config import BLOCK_SIZE, EngineConfig
from octavo.engine.errors import ConfigError, ModelError
from octavo.engine.models.source import open_model
from octavo.engine.speculation import build_speculator
from octavo.engine.speculation.speculator import Speculator

from .conftest import text

Tiny = Callable[..., Path]


def build(folder: Path, on_weight: Callable[[str], None] = print, **settings: Any) -> Speculator | None:
    config = EngineConfig(model=str(folder), dtype="float32", threads=1, **settings)
    return build_speculator(config, open_model(str(folder)), 512, on_weight)


def test_nothing_is_guessed_by_default(tiny_model: Tiny) -> None:
    assert build(tiny_model("llama")) is None


def test_prompt_lookup_needs_no_memory(tiny_model: Tiny) -> None:
    speculator = build(tiny_model("llama"), speculation="ngram")
    assert speculator is not None
    assert speculator.block_bytes == 0
    speculator.allocate(10)
    speculator.propose([text(1, 2, 3)])


def test_a_draft_model_has_a_pool_of_its_own(tiny_model: Tiny) -> None:
    """Two layers of two key-value heads of 16 elements, float32, for keys and for values."""
    weights: list[str] = []
    draft = str(tiny_model("llama"))
    packed_anew = {"weight_cache": "off"}
    speculator = build(
        tiny_model("qwen3"), weights.append, speculation="draft", draft_model=draft, **packed_anew
    )
    assert speculator is not None
    assert speculator.block_bytes == BLOCK_SIZE * 2 * 2 * 16 * 4 * 2
    assert len(set(weights)) == len(weights) > 10
    speculator.allocate(8)
    sequence = text(*range(10, 40))
    drafts = []
    for _ in range(20):
        speculator.propose([sequence])
        drafts.append(sequence.draft)
        sequence.extend([*sequence.draft, 9])
        speculator.verified(sequence, len(sequence.draft), len(sequence.draft))
        speculator.timed(1 + len(sequence.draft), 1, 1.0)
    assert max(map(len, drafts)) == 8
    speculator.forget(sequence)


def test_a_draft_model_may_know_shorter_contexts(tiny_model: Tiny) -> None:
    draft = str(tiny_model("llama", max_position_embeddings=64))
    speculator = build(tiny_model("llama"), speculation="draft", draft_model=draft)
    assert speculator is not None
    speculator.allocate(8)
    sequence = text(*range(10, 90))
    for _ in range(5):
        speculator.propose([sequence])
        assert not sequence.draft
        speculator.timed(1, 1, 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speculation": "draft"}, "draft_model: must be set for speculation=draft"),
        ({"draft_model": "small"}, "draft_model: must not be set without speculation=draft .*'small'"),
        ({"speculation": "ngram", "draft_model": "small"}, "draft_model: must not be set without"),
        ({"num_speculative_tokens": 0}, r"num_speculative_tokens: must be in \[1, 64\] \(got 0\)"),
        ({"speculation": "ngram", "num_speculative_tokens": 65}, r"num_speculative_tokens: must be in"),
        ({"speculation": "medusa"}, r"speculation: must be one of off, ngram, draft \(got 'medusa'\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tiny_model: Tiny, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tiny_model("llama"), **settings)


def test_a_draft_model_must_exist(tiny_model: Tiny) -> None:
    with pytest.raises(ModelError, match="no such file"):
        build(tiny_model("llama"), speculation="draft", draft_model="./nowhere")


def test_vocabularies_must_be_the_same(tiny_model: Tiny, smollm2_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"draft_model: must have the same vocabulary as .*SmolLM2"):
        build(tiny_model("llama"), speculation="draft", draft_model=str(smollm2_path))


def test_vocabularies_may_be_padded_differently(tiny_model: Tiny) -> None:
    draft = str(tiny_model("llama", vocab_size=352))
    assert build(tiny_model("llama"), speculation="draft", draft_model=draft) is not None


def test_one_token_that_differs_is_named(tiny_model: Tiny, tmp_path: Path) -> None:
    for file in tiny_model("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_tokens(["<new>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"'<new>' is .*, not missing"):
        build(tiny_model("llama"), speculation="draft", draft_model=str(tmp_path))
