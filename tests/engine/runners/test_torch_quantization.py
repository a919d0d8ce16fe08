"""Weights of 8 and 4 bits in the torch runner: near to whole ones, with Triton's kernels too, and smaller."""

from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.engine.config import EngineConfig
from octavo.engine.errors import ConfigError
from octavo.engine.loading import load_engine
from octavo.engine.models.files import ModelFiles
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams
from octavo.engine.runners.build import build_runner
from octavo.engine.runners.torch import TorchRunner
from octavo.kernels.reference.quantized import QuantizedLinear
from tests.conftest import GPU_OR_CPU, TinyModel
from tests.engine.conftest import run

from .steps import Piece, blocks_for, device_of, logits

FORMS = {"int8": 0.05, "fp8": 0.15, "int4": 0.25}
"""With how much of the logits' spread their error may be, in the root of the mean square."""


def runner(files: ModelFiles, quantization: str, kernels: str = "reference") -> TorchRunner:
    config = EngineConfig(
        model=str(files.path),
        device=device_of(kernels),
        runner="torch",
        dtype="float32",
        quantization=quantization,  # type: ignore[arg-type]
        kernels=kernels,  # type: ignore[arg-type]
    )
    made = build_runner(files, config, 512, lambda name: None)
    assert isinstance(made, TorchRunner)
    made.allocate(16)
    return made


def of_a_prompt(runner: TorchRunner) -> np.ndarray:
    tokens = np.random.default_rng(0).integers(3, 300, 40).tolist()
    return logits(runner, Piece(tokens, 0, 40, np.arange(blocks_for(40))))


@pytest.fixture(scope="module")
def files(tiny_model: TinyModel) -> ModelFiles:
    """With biases, an output of its own and queries' heads that share keys."""
    return open_model(str(tiny_model("qwen2", tie_word_embeddings=False)))


@pytest.fixture(scope="module")
def whole(files: ModelFiles) -> np.ndarray:
    return of_a_prompt(runner(files, "none"))


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """As a share of what is expected's spread."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


@pytest.mark.parametrize("form", FORMS)
def test_logits_come_near_to_those_of_whole_weights(files: ModelFiles, whole: np.ndarray, form: str) -> None:
    assert 0 < error(of_a_prompt(runner(files, form)), whole) < FORMS[form]


@pytest.mark.no_cover
@pytest.mark.usefixtures("triton_kernels")
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_tritons_kernels_have_the_references_logits(files: ModelFiles, form: str) -> None:
    assert error(of_a_prompt(runner(files, form, "triton")), of_a_prompt(runner(files, form))) < 1e-5


@pytest.mark.no_cover
@pytest.mark.skipif(GPU_OR_CPU != "cpu", reason="the GPU here may multiply float8")
@pytest.mark.usefixtures("triton_kernels")
def test_where_no_gpu_multiplies_float8_only_weights_are_rounded_to_it(
    files: ModelFiles, whole: np.ndarray
) -> None:
    assert error(of_a_prompt(runner(files, "fp8", "triton")), whole) < FORMS["fp8"] / 1.3


def test_a_request_is_answered_alike_alone_and_among_others(files: ModelFiles) -> None:
    config = EngineConfig(model=str(files.path), device="cpu", runner="torch", quantization="int8")
    prompts = [[5, 6, 7], list(range(10, 60)), [9] * 20]
    greedy = SamplingParams(temperature=0, max_tokens=8)
    together = run(load_engine(files, config), prompts, greedy)
    assert together == run(load_engine(files, config), prompts, greedy, together=False)


@pytest.mark.parametrize(("form", "bytes_each"), [("int8", 1), ("fp8", 1), ("int4", 0.625)])
def test_weights_take_the_memory_of_their_bits(files: ModelFiles, form: str, bytes_each: float) -> None:
    layer = runner(files, form)._decoder._layers[0]
    packed: list[QuantizedLinear] = [layer.qkv, layer.o, layer.gate_up, layer.down]
    parts = [part for one in packed for part in (one.weight, one.scale, one.minimum) if part is not None]
    shapes = [
        shape
        for name, shape in files.spec.weight_shapes().items()
        if name.startswith("layers.0.") and len(shape) == 2
    ]
    size = sum(map(math.prod, shapes)) * bytes_each
    scales = 0 if form == "int4" else 4 * sum(len(one.weight) for one in packed)
    assert sum(part.nbytes for part in parts) == size + scales


def test_groups_must_divide_the_rows(tiny_model: TinyModel) -> None:
    files = open_model(str(tiny_model("llama", intermediate_size=72)))
    with pytest.raises(ConfigError, match=r"^quantization: int4 .* intermediate size, 72, is no multiple"):
        runner(files, "int4")
