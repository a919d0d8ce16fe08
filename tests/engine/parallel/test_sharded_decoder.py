"""The ranks' decoders together compute what one does, for every family; each rank is a thread here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

from octavo.engine.config import EngineConfig
from octavo.engine.errors import RankLost
from octavo.engine.models.source import open_model
from octavo.engine.parallel.exchange import Exchange, create
from octavo.engine.parallel.group import Group
from octavo.engine.runners.native import NativeRunner
from octavo.engine.runners.torch import TorchRunner
from octavo.kernels.cpu.library import is_available
from tests.conftest import TinyModel

from ..models.conftest import convert
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
NATIVE = {
    # Of four ranks each must have 32 elements of heads; odd sizes are PyTorch's.
    name: (family, overrides if "num_attention_heads" in overrides else {**overrides, "head_dim": 32})
    for name, (family, overrides) in CASES.items()
    if name != "llama, odd sizes"
} | {"llama, an odd vocabulary": ("llama", {"head_dim": 32, "vocab_size": 389})}
compiled = pytest.mark.skipif(not is_available(), reason="the CPU kernels are not compiled")


class Threads:
    """A model over `size` ranks of this process."""

    def __init__(
        self,
        path: str,
        size: int,
        dtype: Any = "float32",
        runner: Any = TorchRunner,
        patience: float | None = None,
        **settings: Any,
    ) -> None:
        self._memory = create(size)
        self._pool = ThreadPoolExecutor(size)
        self.exchanges = [Exchange(self._memory.fileno(), rank, size, patience) for rank in range(size)]
        groups = [Group(rank, size, exchange) for rank, exchange in enumerate(self.exchanges)]
        config = EngineConfig(model=path, dtype=dtype, **({"threads": 1} | settings))
        self.runners = [runner(open_model(path), config, 512, group=group) for group in groups]
        for runner in self.runners:
            runner.allocate(NUM_BLOCKS)

    def logits(self, *pieces: Piece, copies: list[tuple[int, int]]) -> np.ndarray:
        batch = batch_of(*pieces, copies=copies)
        found = list(self._pool.map(lambda runner: runner.logits(batch), self.runners))
        return found[0].copy() if isinstance(found[0], np.ndarray) else found[0].float().numpy()

    def close(self) -> None:
        self._pool.shutdown()
        self._memory.close()


RUNNERS: dict[Any, Any] = {TorchRunner: CASES, NativeRunner: NATIVE}


@pytest.fixture(
    params=[(runner, *case) for runner, cases in RUNNERS.items() for case in cases.values()],
    ids=[f"{runner.__name__}, {name}" for runner, cases in RUNNERS.items() for name in cases],
    scope="module",
)
def sharded(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Iterator[dict[int, Threads]]:
    """By number of ranks."""
    runner, family, overrides = request.param
    path = str(tiny_model(family, **overrides))
    found = {size: Threads(path, size, runner=runner) for size in (1, 2, 4)}
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


def of_steps(path: Path, size: int, **settings: Any) -> np.ndarray:
    """All logits of the native runner."""
    threads = Threads(str(path), size, **{"runner": NativeRunner, **settings})
    found = np.concatenate([threads.logits(*pieces, copies=copies) for pieces, copies in steps(384)])
    threads.close()
    return found


FORMS: dict[str, dict[str, str]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
    "8-bit keys and values": {"kv_cache_dtype": "int8"},
}


@compiled
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("size", [2, 4])
def test_fewer_bits_are_as_near_to_float32_on_several_ranks_as_on_one(
    tiny_model: TinyModel, form: dict[str, str], size: int
) -> None:
    """Four ranks' parts of int8's groups of 64 are halves."""
    path = tiny_model("llama", head_dim=32)
    exact, one, several = of_steps(path, 1), of_steps(path, 1, **form), of_steps(path, size, **form)
    assert np.linalg.norm(several - exact) <= 1.2 * np.linalg.norm(one - exact)


@compiled
@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q8_0])
def test_a_gguf_file_s_own_blocks(tiny_model: TinyModel, tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "tiny.gguf"
    convert(tiny_model("llama", head_dim=32), "llama", path, kind, {})
    exact, one, several = (of_steps(path, size, dtype=dtype) for size, dtype in
                           ((1, "float32"), (1, "auto"), (4, "auto")))  # fmt: skip
    assert np.linalg.norm(several - exact) <= 1.2 * np.linalg.norm(one - exact)


@compiled
@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q6_K])
def test_blocks_of_256_are_rounded_anew_where_they_are_cut(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """Of two ranks each has half a block of o, and whole ones of down; of four half a block of that too."""
    num_bytes = GGML_QUANT_SIZES[kind][1]
    rng = np.random.default_rng(0)

    def quantize(values: np.ndarray, stored: Kind) -> np.ndarray:
        if stored != kind:
            return values
        blocks = rng.integers(0, 256, (len(values), values.shape[1] // 256, num_bytes), np.uint8)
        for at in {Kind.Q4_K: (0, 2), Kind.Q6_K: (208,)}[kind]:
            scales = rng.uniform(0, 2e-4, (*blocks.shape[:2], 1)).astype(np.float16)
            blocks[:, :, at : at + 2] = scales.view(np.uint8)
        return blocks.reshape(len(values), -1)

    monkeypatch.setattr("gguf.quants.quantize", quantize)
    path = tmp_path / "tiny.gguf"
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    convert(tiny_model("llama", **sizes), "llama", path, kind, {})
    exact, one, two, four = (of_steps(path, size, dtype=dtype) for size, dtype in
                             ((1, "float32"), (1, "auto"), (2, "auto"), (4, "auto")))  # fmt: skip
    for several in (two, four):
        assert np.linalg.norm(several - exact) <= 1.2 * np.linalg.norm(one - exact)


@compiled
def test_the_same_bits_on_any_number_of_threads_and_in_any_batch(tiny_model: TinyModel) -> None:
    path = tiny_model("llama", head_dim=32)
    np.testing.assert_array_equal(of_steps(path, 2, threads=1), of_steps(path, 2, threads=2))

    together, apart = (Threads(str(path), 4, runner=NativeRunner) for _ in range(2))
    rng = np.random.default_rng(0)
    pieces = [Piece(rng.integers(3, 384, 30).tolist(), 0, 30, [2 * i, 2 * i + 1], [3, 29]) for i in range(4)]
    expected = np.concatenate([apart.logits(piece, copies=[]) for piece in pieces])
    np.testing.assert_array_equal(together.logits(*pieces, copies=[]), expected)
    for threads in (together, apart):
        threads.close()


@compiled
def test_more_than_a_slot_has_room_for_goes_over_in_pieces(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With slots of 1,024 bytes: four rows of hidden states, and one of logits."""
    path = tiny_model("llama", head_dim=32)
    expected = of_steps(path, 2)
    monkeypatch.setattr("octavo.engine.runners.native.runner.SLOT_BYTES", 1024)
    np.testing.assert_array_equal(of_steps(path, 2), expected)


@compiled
def test_each_rank_s_packed_weights_are_kept_for_themselves(tiny_model: TinyModel, tmp_path: Path) -> None:
    path, folder = tiny_model("qwen3"), str(tmp_path / "cache")
    expected = {size: of_steps(path, size, weight_cache="off") for size in (1, 2, 4)}
    for _ in range(2):
        for size, logits in expected.items():
            np.testing.assert_array_equal(of_steps(path, size, weight_cache=folder), logits)
        assert len(list(Path(folder).glob("*.weights"))) == 1 + 2 + 4


@compiled
def test_a_step_ends_when_another_rank_does_not_come(tiny_model: TinyModel) -> None:
    threads = Threads(str(tiny_model("llama")), 2, runner=NativeRunner, patience=0.2)
    batch = batch_of(Piece([5, 6, 7], 0, 3, [0]))
    with pytest.raises(RankLost, match=r"^rank 1 has kept the others waiting for 0\.2 s$"):
        threads.runners[0].logits(batch)
    threads.close()


@compiled
def test_a_step_ends_when_rank_0_has_given_up(tiny_model: TinyModel) -> None:
    ranks = Threads(str(tiny_model("llama")), 2, runner=NativeRunner, threads=2)
    threading.Timer(0.1, ranks.exchanges[0].abandon).start()
    with pytest.raises(RankLost, match=r"^the ranks have been given up$"):
        ranks.runners[1].logits(batch_of(Piece([5, 6, 7], 0, 3, [0])))
    ranks.close()
