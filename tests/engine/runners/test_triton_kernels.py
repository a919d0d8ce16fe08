"""The torch runner with Triton's kernels, on a GPU or in an interpreter: what a GPU computes, end to end."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from triton import knobs

from octavo.engine.config import EngineConfig
from octavo.engine.errors import ConfigError
from octavo.engine.loading import load_engine
from octavo.engine.models.files import ModelFiles
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams
from octavo.engine.runners.build import build_runner
from octavo.engine.runners.torch import TorchRunner
from octavo.engine.runners.torch.kernels import choose_kernels
from octavo.kernels import reference, triton
from tests.conftest import GPU_OR_CPU, TinyModel
from tests.engine.conftest import run

from .steps import Piece, blocks_for, logits

GREEDY = SamplingParams(temperature=0, max_tokens=12)
PROMPTS = [[5, 6, 7], list(range(10, 60)), [9] * 20, [*range(10, 42), 300, 301]]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 80, "num_key_value_heads": 1},
    "mistral": {"sliding_window": 24},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"hidden_act": "gelu_pytorch_tanh"},
}


def runner(files: ModelFiles, kernels: str, dtype: str, **settings: Any) -> TorchRunner:
    config = EngineConfig(
        model=str(files.path), device=GPU_OR_CPU, runner="torch", kernels=kernels, dtype=dtype, **settings
    )
    made = build_runner(files, config, 512, lambda name: None)
    assert isinstance(made, TorchRunner)
    made.allocate(100)
    return made


def two_steps(runner: TorchRunner) -> np.ndarray:
    """A prompt's chunk, then its rest beside a decode, a short prompt and one that goes on in a copy."""
    rng = np.random.default_rng(0)
    one, two, three = (rng.integers(3, 300, length).tolist() for length in (130, 18, 9))
    blocks = rng.permutation(100)
    of_one, of_two, of_three = blocks[:9], blocks[9 : 9 + blocks_for(18)], blocks[20:21]
    first = logits(runner, Piece(one, 0, 70, of_one), Piece(two, 0, 17, of_two))
    copied = np.array([of_two[0], 99])
    second = logits(
        runner,
        Piece(one, 70, 130, of_one),
        Piece(two, 17, 18, [of_two[0], of_two[1]]),
        Piece(three, 0, 9, of_three),
        Piece(two, 16, 18, copied, [16, 17]),
        copies=[(int(of_two[1]), 99)],
    )
    return np.concatenate([first, second])


@pytest.mark.no_cover
@pytest.mark.usefixtures("triton_kernels")
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_reference_kernels(tiny_model: TinyModel, family: str) -> None:
    files = open_model(str(tiny_model(family, **FAMILIES[family])))
    expected = two_steps(runner(files, "reference", "float32"))
    np.testing.assert_allclose(two_steps(runner(files, "triton", "float32")), expected, atol=2e-3, rtol=1e-3)


def test_keys_and_values_in_8_bits_come_near_to_whole_ones(tiny_model: TinyModel, kernels: str) -> None:
    files = open_model(str(tiny_model("llama")))
    whole, bytes_ = (
        runner(files, kernels, "float32"),
        runner(files, kernels, "float32", kv_cache_dtype="int8"),
    )
    exact = two_steps(whole)
    assert np.linalg.norm(two_steps(bytes_) - exact) < 0.02 * np.linalg.norm(exact)
    head_dim = files.spec.head_dim
    assert bytes_.block_bytes * 4 * head_dim == whole.block_bytes * (head_dim + 4)


@pytest.mark.no_cover
@pytest.mark.usefixtures("triton_kernels")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types_come_as_near_to_float32_as_the_reference(tiny_model: TinyModel, dtype: str) -> None:
    files = open_model(str(tiny_model("llama")))
    exact = two_steps(runner(files, "reference", "float32"))
    theirs = np.abs(two_steps(runner(files, "reference", dtype)) - exact).mean()
    ours = np.abs(two_steps(runner(files, "triton", dtype)) - exact).mean()
    assert ours < 2.5 * theirs  # the interpreter truncates to bfloat16, where a card rounds


@pytest.mark.no_cover
@pytest.mark.usefixtures("triton_kernels")
@pytest.mark.parametrize(
    "settings", [{}, {"speculation": "ngram"}, {"max_num_batched_tokens": 24, "max_num_seqs": 8}]
)
def test_the_engine_says_the_same_end_to_end(tiny_model: TinyModel, settings: dict[str, Any]) -> None:
    """Continuous batching, shared prefixes, chunks, guesses."""
    path = str(tiny_model("llama"))

    def outputs(kernels: str) -> list[list[int]]:
        config = EngineConfig(
            model=path,
            device=GPU_OR_CPU,
            runner="torch",
            kernels=kernels,
            dtype="float32",
            kv_cache_memory="4Mi",
            **settings,
        )
        return run(load_engine(open_model(path), config), PROMPTS, GREEDY)

    assert outputs("triton") == outputs("reference")


def chosen(files: ModelFiles, device: str, kernels: str = "auto") -> Any:
    return choose_kernels(EngineConfig(kernels=kernels), files.spec, torch.device(device))


@pytest.fixture
def files(tiny_model: TinyModel) -> ModelFiles:
    return open_model(str(tiny_model("llama")))


def test_a_cpu_computes_with_the_reference_kernels_and_a_gpu_with_tritons(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert chosen(files, "cpu") is reference
    assert chosen(files, "cuda") is triton
    assert chosen(files, "cuda", "reference") is reference


def test_an_old_gpu_computes_with_the_reference_kernels_and_the_log_says_why(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with caplog.at_level(logging.WARNING, "octavo"):
        assert chosen(files, "cuda") is reference
    assert "compute capability, 7.5, is below 8.0" in caplog.text
    with pytest.raises(ConfigError, match=r"^kernels: triton cannot serve: .*7\.5.*\(got 'triton'\)$"):
        chosen(files, "cuda", "triton")


def test_without_the_interpreter_triton_is_refused_on_a_cpu(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    with pytest.raises(ConfigError, match=r"^kernels: .*TRITON_INTERPRET=1.*\(got 'triton'\)$"):
        chosen(files, "cpu", "triton")


def test_the_native_runner_takes_no_other_kernels(files: ModelFiles) -> None:
    config = EngineConfig(model=str(files.path), device="cpu", runner="native", kernels="reference")
    with pytest.raises(ConfigError, match=r"^runner: native .*\(got kernels 'reference'\)$"):
        build_runner(files, config, 512, lambda name: None)
