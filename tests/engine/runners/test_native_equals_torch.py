"""The native runner computes what the torch runner computes with the reference kernels, over all shapes.

In bfloat16 neither is exact: there the native runner must come about as near to float32 as torch does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from octavo.engine.config import EngineConfig
from octavo.engine.models.source import open_model
from octavo.engine.runners.native import NativeRunner, refusal
from octavo.engine.runners.torch import TorchRunner
from tests.conftest import TinyModel

from .steps import Piece, blocks_for, logits

NUM_BLOCKS = 100

Case = tuple[str, dict[str, Any]]


def heads(num_heads: int, num_kv_heads: int, head_dim: int, family: str = "llama") -> Case:
    return family, {
        "hidden_size": max(64, math.lcm(32, num_heads)),  # Transformers wants it to be a multiple
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_dim,
    }


def rope(kind: str, **parameters: Any) -> Case:
    return "llama", {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **parameters}}


CASES: dict[str, Case] = {
    "head size 16": heads(4, 2, 16),
    "head size 32, 3 query heads per key-value head": heads(6, 2, 32),
    "head size 64, no grouping": heads(2, 2, 64),
    "head size 64, 8 query heads per key-value head": heads(8, 1, 64),
    "head size 80, 2 query heads per key-value head": heads(4, 2, 80),
    "head size 96, 5 query heads per key-value head": heads(5, 1, 96),
    "head size 96, mistral": heads(4, 2, 96, "mistral"),
    "head size 128, 4 query heads per key-value head": heads(4, 1, 128),
    "head size 128, 7 query heads per key-value head": heads(7, 1, 128, "qwen3"),
    "head size 256, 6 query heads per key-value head": heads(6, 1, 256),
    "head size 256, no grouping, qwen3": heads(2, 2, 256, "qwen3"),
    "biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "gelu": ("llama", {"hidden_act": "gelu"}),
    "gelu by tanh": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "a vocabulary of no whole panel": ("llama", {"vocab_size": 389}),
    "a vocabulary of no whole panel, tied": ("llama", {"vocab_size": 389, "tie_word_embeddings": True}),
    "odd numbers of panels": ("llama", {"hidden_size": 96, "intermediate_size": 160, "head_dim": 48}),
    "linear rope": rope("linear", factor=4.0),
    "dynamic rope": rope("dynamic", factor=2.0),
    "llama 3's rope": rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
    ),
    "yarn": rope("yarn", factor=4.0, original_max_position_embeddings=128),
    "a sliding window of a block and a half": ("mistral", {"sliding_window": 24}),
    "a sliding window of more than a chunk": ("mistral", {"sliding_window": 150}),
    "qwen2": ("qwen2", {}),
    "qwen2, some layers sliding": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
}

Runners = dict[str, Any]
"""By name and type: torch float32, torch bfloat16, native float32, native bfloat16."""


def load(tiny_model: TinyModel, case: Case, max_model_len: int = 512) -> Runners:
    family, overrides = case
    path = str(tiny_model(family, **overrides))
    found: Runners = {}
    for dtype in ("float32", "bfloat16"):
        config = EngineConfig(model=path, dtype=dtype)
        assert refusal(open_model(path), config) is None
        found[f"torch {dtype}"] = TorchRunner(open_model(path), config, max_model_len)
        found[f"native {dtype}"] = NativeRunner(open_model(path), config, max_model_len)
    return found


@pytest.fixture(params=CASES.values(), ids=CASES.keys(), scope="module")
def runners(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Runners:
    return load(tiny_model, request.param)


def steps(vocab_size: int) -> Iterator[tuple[list[Piece], list[tuple[int, int]]]]:
    """A busy engine's: prompts in chunks of all sizes, decodes beside them, shared blocks and copies."""
    rng = np.random.default_rng(0)
    free = iter(rng.permutation(NUM_BLOCKS))

    def text(length: int, ahead: int = 4) -> tuple[list[int], list[int]]:
        tokens = rng.integers(3, vocab_size, length + ahead).tolist()
        return tokens, [int(next(free)) for _ in range(blocks_for(length + ahead))]

    one, two, three, four = text(1), text(17), text(200), text(400)
    # The fifth starts with 160 tokens of the fourth, in the same blocks.
    tail, own = text(30)
    five = (four[0][:160] + tail, four[1][:10] + own)
    yield [Piece(*_cut(one, 0, 1)), Piece(*_cut(two, 0, 17)), Piece(*_cut(four, 0, 100))], []
    yield [Piece(*_cut(three, 0, 5)), Piece(*_cut(one, 1, 2)), Piece(*_cut(four, 100, 400))], []
    yield [Piece(*_cut(two, 17, 18)), Piece(*_cut(three, 5, 200), [5, 42, 140, 199])], []
    yield [Piece(*_cut(five, 160, 190)), Piece(*_cut(three, 200, 201)), Piece(*_cut(four, 400, 401))], []
    # Two go on from the third, one of them in a copy of its last block.
    copied = int(next(free))
    six = ([*three[0][:201], 7, 8, 9], [*three[1][:-1], copied])
    yield (
        [
            Piece(*_cut(three, 201, 203), [201, 202]),
            Piece(*_cut(six, 201, 204)),
            Piece(*_cut(five, 190, 191)),
        ],
        [(three[1][-1], copied)],
    )
    yield [Piece(*_cut(each, len(each[0]) - 1, len(each[0]))) for each in (four, five)], []


def _cut(text: tuple[list[int], list[int]], start: int, stop: int) -> tuple[list[int], int, int, list[int]]:
    return text[0], start, stop, text[1]


def test_logits_of_ragged_batches(runners: Runners) -> None:
    for runner in runners.values():
        runner.allocate(NUM_BLOCKS)
    found: dict[str, list[np.ndarray]] = {name: [] for name in runners}
    vocab_size = runners["torch float32"]._spec.vocab_size
    for pieces, copies in steps(vocab_size):
        for name, runner in runners.items():
            found[name].append(logits(runner, *pieces, copies=copies))
    assert_equal({name: np.concatenate(rows) for name, rows in found.items()})


def assert_equal(found: dict[str, np.ndarray]) -> None:
    exact = found["torch float32"]
    scale = np.abs(exact).max()
    np.testing.assert_allclose(found["native float32"], exact, rtol=0, atol=2e-5 * scale)

    def error(name: str) -> float:
        return float(np.linalg.norm(found[name] - exact) / np.linalg.norm(exact))

    assert error("native bfloat16") <= 1.2 * error("torch bfloat16")


@pytest.mark.parametrize("case", [heads(4, 2, 64), heads(3, 1, 128)], ids=["64", "128"])
def test_contexts_up_to_8192_tokens(
    tiny_model: TinyModel, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What torch does in bfloat16, too, but where a processor has none it takes fifty times as long.
    monkeypatch.setattr(torch, "bmm", lambda a, b: torch.matmul(a.float(), b.float()).to(a.dtype))
    family, overrides = case
    runners = load(tiny_model, (family, {**overrides, "max_position_embeddings": 8192}), 8192)
    rng = np.random.default_rng(0)
    tokens, num_blocks = rng.integers(3, 384, 8192), blocks_for(8192)
    order = rng.permutation(num_blocks).tolist()
    found: dict[str, list[np.ndarray]] = {name: [] for name in runners}
    for name, runner in runners.items():
        runner.allocate(num_blocks)
        for start in range(0, 8190, 1024):
            stop = min(start + 1024, 8190)
            found[name].append(logits(runner, Piece(tokens, start, stop, order, [start, stop - 1])))
        found[name].append(logits(runner, Piece(tokens, 8190, 8191, order)))
        # Beside one that shares half of it.
        half = Piece([*tokens[:4096], 5], 4095, 4096, order[:256])
        found[name].append(logits(runner, half, Piece(tokens, 8191, 8192, order)))
    assert_equal({name: np.concatenate(rows) for name, rows in found.items()})
