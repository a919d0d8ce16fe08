"""Decode steps from graphs. Without a GPU what captures is made up: it calls the same closure again, with the
Python values that it had, as a CUDA graph launches again; what differs from step to step has to be in its
inputs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.engine.batch import drawn
from octavo.engine.config import EngineConfig
from octavo.engine.errors import ConfigError
from octavo.engine.loading import load_engine
from octavo.engine.models.files import ModelFiles
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams
from octavo.engine.runners.torch import TorchRunner
from octavo.engine.runners.torch.graphs import CudaCapture, Shape, Shapes, choose_capture, padded
from octavo.kernels import reference, triton
from octavo.kernels.cache import Int8Cache
from tests.conftest import GPU_OR_CPU, TinyModel
from tests.engine.conftest import run

from .steps import Piece, batch_of

NUM_BLOCKS = 400
PROMPTS = [[5, 6, 7], list(range(10, 40)), [9] * 20]
LENGTHS = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in (3, 6, 2)]


class Recorder:
    """See `Capture`."""

    def __init__(self) -> None:
        self.captured = 0
        self.launched = 0
        self._capture = CudaCapture() if GPU_OR_CPU == "cuda" else lambda launches: launches

    def __call__(self, launches: Callable[[], object]) -> Callable[[], object]:
        self.captured += 1
        again = self._capture(launches)

        def launch() -> None:
            self.launched += 1
            again()

        return launch


def load(files: ModelFiles, capture: Any, **settings: Any) -> TorchRunner:
    config = EngineConfig(
        model=str(files.path),
        device=GPU_OR_CPU,
        runner="torch",
        kernels="triton",
        dtype="float32",
        **settings,
    )
    runner = TorchRunner(files, replace(config, cuda_graphs="off"), 4096, capture=capture)
    runner.allocate(NUM_BLOCKS)
    return runner


def decode(rng: np.random.Generator, *contexts: int) -> Any:
    """A batch of sequences' last tokens, in blocks as scattered as a busy pool's."""
    blocks = iter(rng.permutation(NUM_BLOCKS).tolist())
    return batch_of(
        *(
            Piece(
                rng.integers(3, 300, context).tolist(),
                context - 1,
                context,
                [next(blocks) for _ in range(-(-context // 16))],
            )
            for context in contexts
        )
    )


def parts_of(cache: Any) -> tuple[torch.Tensor, ...]:
    return (cache.values, cache.scales) if isinstance(cache, Int8Cache) else (cache,)


def fill(runner: TorchRunner) -> None:
    """Keys and values in every block, the same in every runner."""
    generator = torch.Generator().manual_seed(0)
    for caches in runner._caches:
        for cache in caches:
            for part in parts_of(cache):
                block = torch.randn(NUM_BLOCKS, *part.shape[1:], generator=generator)
                part[:NUM_BLOCKS] = (block * 40 if part.dtype == torch.int8 else block.abs()).to(part.dtype)


@pytest.mark.no_cover
@pytest.mark.usefixtures("triton_kernels")
@pytest.mark.parametrize(
    ("family", "overrides", "options", "steps"),
    [("mistral", {"sliding_window": 40}, {}, 5), ("qwen3", {}, {"kv_cache_dtype": "int8"}, 3)],
)
def test_a_graph_computes_what_single_launches_do(
    tiny_model: TinyModel,
    family: str,
    overrides: dict[str, Any],
    options: dict[str, Any],
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("octavo.engine.runners.torch.graphs.LEAST_CONTEXT", 512)
    files = open_model(str(tiny_model(family, max_position_embeddings=4096, **overrides)))
    record = Recorder()
    plain, graphs = load(files, None, **options), load(files, record, **options)
    fill(plain), fill(graphs)
    rng = np.random.default_rng(0)
    # Of one shape with other contexts, and fewer of them; then of a longer one, and of the first shape again.
    for contexts in ([5, 70, 17], [40, 1, 60, 33], [7, 8, 9], [520, 20, 3], [61, 16, 5])[:steps]:
        batch = decode(rng, *contexts)
        expected, found = (runner.logits(batch).cpu().clone() for runner in (plain, graphs))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)
    for ours, theirs in zip(graphs._caches, plain._caches, strict=True):
        for our, their in zip(ours, theirs, strict=True):
            for found, expected in zip(parts_of(our), parts_of(their), strict=True):
                next_byte = float(found.dtype == torch.int8)  # what is rounded may be rounded to the next one
                np.testing.assert_allclose(
                    found[:NUM_BLOCKS].float().cpu(), expected.float().cpu(), atol=next_byte + 1e-4
                )
    assert (record.captured, record.launched) == ((2, 3) if steps == 5 else (1, 2))


@pytest.mark.no_cover
@pytest.mark.usefixtures("triton_kernels")
def test_drawn_tokens_are_put_in_place_and_copies_are_made(tiny_model: TinyModel) -> None:
    files = open_model(str(tiny_model("llama", max_position_embeddings=4096)))
    record = Recorder()
    plain, graphs = load(files, None), load(files, record)
    rng = np.random.default_rng(1)
    first, second = decode(rng, 5, 20, 3), decode(rng, 9, 2, 30)
    copies = np.array([[int(first.block_tables[1, 0]), int(second.block_tables[0, 0])]], np.int32)
    second = replace(second, token_ids=np.array([drawn(2), 7, drawn(0)], np.int32), copies=copies)
    found = []
    for runner in (plain, graphs):
        fill(runner)
        for _ in range(2):  # captured, then launched
            one, two = runner.submit(first), runner.submit(second)
            found.append((one.result().token_ids.tolist(), two.result().token_ids.tolist()))
    assert found == [found[0]] * 4
    assert record.launched == 3


@pytest.mark.no_cover
@pytest.mark.usefixtures("triton_kernels")
@pytest.mark.parametrize("overlap", ["on", "off"])
def test_requests_are_answered_alike_with_graphs_and_without(
    tiny_model: TinyModel, overlap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end at different times: the decodes have three sequences, two and one."""
    files = open_model(str(tiny_model("llama")))
    config = EngineConfig(
        model=str(files.path), device=GPU_OR_CPU, runner="torch", kernels="triton", overlap=overlap
    )
    record = Recorder()
    answers = []
    for capture in (None, record):
        monkeypatch.setattr(
            "octavo.engine.runners.torch.runner.choose_capture", lambda *_, capture=capture: capture
        )
        answers.append(run(load_engine(files, config), PROMPTS, LENGTHS))
    assert answers[0] == answers[1]
    assert record.launched > 0


@given(st.integers(1, 300), st.integers(1, 200_000), st.data())
def test_shapes_are_few_and_hold_every_decode(
    max_num_seqs: int, max_model_len: int, data: st.DataObject
) -> None:
    shapes = Shapes(max_num_seqs, max_model_len)
    assert shapes.sizes == sorted(set(shapes.sizes))
    assert shapes.contexts == sorted(set(shapes.contexts))
    assert len(shapes.sizes) <= 26
    assert len(shapes.contexts) <= 5
    num_seqs = data.draw(st.integers(1, max_num_seqs))
    contexts = data.draw(st.lists(st.integers(1, max_model_len), min_size=num_seqs, max_size=num_seqs))
    batch = batch_of(*(Piece([3], 0, 1, [0]) for _ in contexts))
    batch = replace(batch, context_lens=np.array(contexts, np.int32))
    shape = shapes.of(batch)
    assert shape is not None
    assert num_seqs <= shape.num_seqs <= max(num_seqs + 7, num_seqs * 5 / 4)
    assert max(contexts) <= shape.context <= max(1024, 4 * max(contexts))


@settings(max_examples=30)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=9), st.integers(0, 7))
def test_what_fills_a_step_is_in_the_spare_block(contexts: list[int], more: int) -> None:
    batch = decode(np.random.default_rng(0), *[min(context, 16 * NUM_BLOCKS // 9) for context in contexts])
    wide = padded(batch, Shape(len(contexts) + more, 1024), NUM_BLOCKS)
    count = len(contexts)
    np.testing.assert_array_equal(
        wide.block_tables[:count, : batch.block_tables.shape[1]], batch.block_tables
    )
    assert (wide.block_tables[count:] == NUM_BLOCKS).all()
    assert wide.block_tables.shape == (count + more, 64)
    assert (wide.query_lens == 1).all()
    assert (wide.context_lens[count:] == 1).all()
    assert (wide.positions[count:] == 0).all()


def test_what_is_no_decode_is_launched_one_by_one() -> None:
    shapes = Shapes(4, 2048)
    one = Piece([5, 6, 7], 2, 3, [0])
    assert shapes.of(batch_of(one, one)) == Shape(2, 1024)
    assert shapes.of(batch_of(one, Piece([5, 6, 7], 1, 3, [1]))) is None  # a prompt, or guesses
    assert shapes.of(batch_of(one, replace(one, wanted=[]))) is None  # a prompt's chunk of a token
    assert shapes.of(batch_of(*[one] * 5)) is None


@pytest.mark.no_cover
@pytest.mark.usefixtures("triton_kernels")
def test_without_memory_for_a_graph_steps_go_on_one_by_one(
    tiny_model: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    def capture(launches: Callable[[], object]) -> Callable[[], object]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    files = open_model(str(tiny_model("llama")))
    runner, plain = load(files, capture), load(files, None)
    batch = decode(np.random.default_rng(0), 5, 6, 7)
    with caplog.at_level(logging.WARNING, "octavo"):
        for _ in range(2):
            np.testing.assert_allclose(runner.logits(batch).cpu(), plain.logits(batch).cpu(), atol=1e-5)
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "no memory is left for the CUDA graph of 4 sequences"
    ]


@pytest.mark.parametrize(
    ("device", "kernels", "ranks", "message"),
    [
        ("cpu", triton, 1, r"^cuda_graphs: must be off or auto on cpu \(got 'on'\)$"),
        ("cuda", reference, 1, r"^cuda_graphs: must be off or auto with PyTorch's own kernels"),
        ("cuda", triton, 2, r"^cuda_graphs: must be off or auto for 2 ranks"),
    ],
)
def test_graphs_that_cannot_be_had_are_refused_or_done_without(
    device: str, kernels: Any, ranks: int, message: str
) -> None:
    config = EngineConfig(tensor_parallel_size=ranks)
    assert choose_capture(config, torch.device(device), kernels) is None
    with pytest.raises(ConfigError, match=message):
        choose_capture(replace(config, cuda_graphs="on"), torch.device(device), kernels)


def test_one_gpu_has_graphs_unless_they_are_off() -> None:
    config = EngineConfig()
    assert choose_capture(config, torch.device("cuda"), triton) is not None
    assert choose_capture(replace(config, cuda_graphs="off"), torch.device("cuda"), triton) is None
