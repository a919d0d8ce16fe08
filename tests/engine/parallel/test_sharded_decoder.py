"""The ranks' decoders together compute what one does, for every family; each rank is a thread here."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from octavo.engine.config import EngineConfig
from octavo.engine.models.source import open_model
from octavo.engine.parallel.exchange import Exchange, create
from octavo.engine.parallel.group import Group
from octavo.engine.runners.torch import TorchRunner
from tests.conftest import TinyModel

from ..runners.steps import Piece, batch_of
from ..runners.test_native_equals_torch import steps

NUM_BLOCKS = 100
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one key-value head for all": ("llama", {"num_key_value_heads": 1}),
    "llama, no grouping": ("llama", {"num_key_value_heads": 4}),
    "llama, odd sizes": ("llama", {"vocab_size": 389, "intermediate_size": 125}),
    "mistral, sliding window": ("mistral", {}),
    "qwen2, some layers sliding": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
}


class Threads:
    """A model over `size` ranks of this process."""

    def __init__(self, path: str, size: int, dtype: Any = "float32") -> None:
        self._memory = create(size)
        self._pool = ThreadPoolExecutor(size)
        groups = [Group(rank, size, Exchange(self._memory.fileno(), rank, size)) for rank in range(size)]
        config = EngineConfig(model=path, dtype=dtype, threads=1)
        self.runners = [TorchRunner(open_model(path), config, 512, group=group) for group in groups]
        for runner in self.runners:
            runner.allocate(NUM_BLOCKS)

    def logits(self, *pieces: Piece, copies: list[tuple[int, int]]) -> np.ndarray:
        batch = batch_of(*pieces, copies=copies)
        found = list(self._pool.map(lambda runner: runner.logits(batch), self.runners))
        return found[0].float().numpy()

    def close(self) -> None:
        self._pool.shutdown()
        self._memory.close()


@pytest.fixture(params=CASES.values(), ids=CASES.keys(), scope="module")
def sharded(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Iterator[dict[int, Threads]]:
    """By number of ranks."""
    family, overrides = request.param
    found = {size: Threads(str(tiny_model(family, **overrides)), size) for size in (1, 2, 4)}
    yield found
    for threads in found.values():
        threads.close()


def test_logits_of_ragged_batches(sharded: dict[int, Threads]) -> None:
    """Prompts in chunks, decodes, shared blocks and copies: all logits of all steps."""
    found: dict[int, list[np.ndarray]] = {size: [] for size in sharded}
    for pieces, copies in steps(384):
        for size, threads in sharded.items():
            found[size].append(threads.logits(*pieces, copies=copies))
    one = np.concatenate(found[1])
    for size in (2, 4):
        np.testing.assert_allclose(np.concatenate(found[size]), one, rtol=0, atol=2e-5 * np.abs(one).max())


def test_a_rank_keeps_its_share_of_keys_and_values(sharded: dict[int, Threads]) -> None:
    """A half or a quarter of the heads; one at least."""
    [whole] = sharded[1].runners
    for size in (2, 4):
        heads = max(whole._spec.num_kv_heads // size, 1)
        for runner in sharded[size].runners:
            assert runner.block_bytes * whole._spec.num_kv_heads == whole.block_bytes * heads


def test_bfloat16_is_as_near_to_float32_on_several_ranks_as_on_one(tiny_model: TinyModel) -> None:
    path = str(tiny_model("qwen3"))
    every = {kind: Threads(path, *kind) for kind in [(1, "float32"), (1, "bfloat16"), (4, "bfloat16")]}
    exact, one, four = (
        np.concatenate([threads.logits(*pieces, copies=copies) for pieces, copies in steps(384)])
        for threads in every.values()
    )
    assert np.linalg.norm(four - exact) <= 1.2 * np.linalg.norm(one - exact)
    for threads in every.values():
        threads.close()
