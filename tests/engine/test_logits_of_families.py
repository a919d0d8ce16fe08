"""Logits of every family agree with Transformers within 1e-4 in float32, prefilled, chunked and decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from octavo.engine.batch import Batch
from octavo.engine.batching import build_batch
from octavo.engine.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams

from .conftest import run, transformers_greedy, transformers_logits

LONG = 200
"""Tokens; beyond the sliding windows, and beyond the original context of the scaled ropes below."""


class TinyModel(Protocol):
    def __call__(self, family: str, **config_overrides: Any) -> Path: ...


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **parameters}}


LLAMA3 = rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
CASES = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, one key-value head": ("llama", {"num_key_value_heads": 1}),
    "llama, no grouping": ("llama", {"num_key_value_heads": 4}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("llama", {"head_dim": 32}),
    "llama, gelu": ("llama", {"hidden_act": "gelu"}),
    "llama 2, linear rope": ("llama", rope("linear", factor=4.0)),
    "llama 2, dynamic rope": ("llama", rope("dynamic", factor=2.0)),
    "llama 3, its rope": ("llama", LLAMA3),
    "llama, yarn": ("llama", rope("yarn", factor=4.0, original_max_position_embeddings=128)),
    "mistral, sliding window": ("mistral", {}),
    "mistral, full attention": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, some layers sliding": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "qwen3, tied, grouped by four": ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
}


# The native runner does all, PyTorch's one of each kind; test_native_equals_torch.py compares the two.
BY_TORCH = (
    *("llama", "llama, biases", "llama, gelu", "llama 3, its rope", "llama, yarn", "mistral, sliding window"),
    *("qwen2, some layers sliding", "qwen3, tied, grouped by four"),
)
RUNS = [("auto", name) for name in CASES] + [("torch", name) for name in BY_TORCH]


@pytest.fixture(params=RUNS, ids=[f"{runner}: {name}" for runner, name in RUNS], scope="module")
def case(request: pytest.FixtureRequest, tiny_model: TinyModel) -> tuple[Engine, Any]:
    """An engine on a tiny model, and the same model in Transformers."""
    from transformers import AutoModelForCausalLM

    runner, name = request.param
    family, overrides = CASES[name]
    folder = tiny_model(family, **overrides)
    config = EngineConfig(
        model=str(folder), dtype="float32", kv_cache_memory="8Mi", max_num_batched_tokens=64, runner=runner
    )
    # The eager attention is Transformers' own plain formula.
    oracle = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return load_engine(open_model(str(folder)), config), oracle.eval()


def test_logits_of_every_step(case: tuple[Engine, Any]) -> None:
    """A prompt in chunks, then decodes: the logits that each step samples from."""
    engine, oracle = case
    prompt = np.random.default_rng(0).integers(3, engine.model.vocab_size, LONG).tolist()
    recorder = Recorder(engine)
    sequence = engine.make_sequence(prompt, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
    engine.add(sequence)
    while engine.has_work:
        engine.step()
    expected = transformers_logits(oracle, sequence.token_ids[:-1])[LONG - 1 :]
    np.testing.assert_allclose(np.concatenate(recorder.logits), expected, atol=1e-4, rtol=0)


def test_greedy_output_of_a_ragged_batch(case: tuple[Engine, Any]) -> None:
    engine, oracle = case
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, engine.model.vocab_size, n).tolist() for n in (1, 5, 16, 17, 40, 130)]
    assert run(engine, prompts, SamplingParams(temperature=0, max_tokens=12)) == transformers_greedy(
        oracle, prompts, 12
    )


class Recorder:
    """Keeps the logits of every step that samples, beside what the engine does."""

    def __init__(self, engine: Engine) -> None:
        self.logits: list[np.ndarray] = []
        runner: Any = engine._runner
        logits_of = runner.logits

        def recording(batch: Batch) -> Any:
            logits = logits_of(batch)
            if len(batch.sampling):
                self.logits.append(
                    np.asarray(logits).copy()
                )  # the native runner's are gone with the next step
            return logits

        runner.logits = recording


def test_a_chunk_without_rows_to_sample_computes_no_logits(case: tuple[Engine, Any]) -> None:
    engine, _ = case
    engine.add(engine.make_sequence([5] * 100, SamplingParams(max_tokens=1)))
    batch, sampled = build_batch(engine._scheduler.schedule())
    assert len(batch.token_ids) == 64
    assert not sampled
    assert len(engine._runner.run(batch).token_ids) == 0
