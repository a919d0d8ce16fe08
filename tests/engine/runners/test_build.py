"""Which runner serves what: the native one on a CPU where it can, PyTorch's everywhere else."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.config import EngineConfig
from octavo.engine.errors import ConfigError
from octavo.engine.models.files import ModelFiles
from octavo.engine.models.source import open_model
from octavo.engine.parallel import runner as parallel
from octavo.engine.parallel.group import Group
from octavo.engine.runners import Runner, build
from octavo.engine.runners.build import build_runner, has_gpu
from octavo.engine.runners.native import NativeRunner, refusal
from octavo.engine.runners.native import runner as native
from octavo.engine.runners.torch.runner import _device as torch_device
from octavo.kernels.cpu.library import is_available
from tests.conftest import TinyModel


@pytest.fixture
def files(tiny_model: TinyModel) -> ModelFiles:
    return open_model(str(tiny_model("llama")))


@pytest.fixture
def with_kernels() -> None:
    if not is_available():
        pytest.skip("the CPU kernels are not compiled")


def built(files: ModelFiles, **settings: Any) -> Runner:
    return build_runner(files, EngineConfig(model=str(files.path), **settings), 512, lambda name: None)


def name(runner: Runner) -> str:
    return type(runner).__name__


@pytest.fixture
def torch_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU: what would be computed there is not."""
    monkeypatch.setattr(build, "has_gpu", lambda: True)


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("runner", ["auto", "native"])
def test_on_a_cpu_the_native_runner_serves(files: ModelFiles, runner: str) -> None:
    assert name(built(files, device="cpu", runner=runner)) == "NativeRunner"


def test_pytorch_serves_where_it_is_asked_for(files: ModelFiles) -> None:
    assert name(built(files, device="cpu", runner="torch")) == "TorchRunner"


@pytest.mark.usefixtures("torch_stands_in")
def test_pytorch_serves_where_there_may_be_a_gpu(files: ModelFiles) -> None:
    assert name(built(files)) == "TorchRunner"


@pytest.mark.usefixtures("with_kernels", "torch_stands_in")
def test_the_cpu_can_be_asked_for_beside_a_gpu(files: ModelFiles) -> None:
    assert name(built(files, device="cpu")) == "NativeRunner"


@pytest.mark.usefixtures("torch_stands_in")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_the_native_runner_is_refused_on_a_gpu(files: ModelFiles, device: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^runner: native computes on a CPU only \(got device '{device}'\)$"
    ):
        built(files, device=device, runner="native")


def test_a_cpu_has_no_cuda_graphs(files: ModelFiles) -> None:
    with pytest.raises(ConfigError, match=r"^cuda_graphs: must be off or auto on a CPU \(got 'on'\)$"):
        built(files, device="cpu", cuda_graphs="on")


@pytest.mark.usefixtures("with_kernels")
def test_fp8_is_not_the_native_runners(files: ModelFiles) -> None:
    with pytest.raises(ConfigError, match=r"^runner: native cannot serve .*: it has no fp8"):
        built(files, device="cpu", runner="native", quantization="fp8")


@pytest.fixture
def ranks_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be started on several ranks is not."""
    monkeypatch.setattr(parallel, "ParallelRunner", lambda files, config, *_: config)


@pytest.mark.usefixtures("with_kernels", "ranks_stand_in")
@pytest.mark.parametrize("runner", ["auto", "native"])
def test_on_several_ranks_of_a_cpu_the_native_runner_serves(files: ModelFiles, runner: str) -> None:
    config: Any = built(files, device="cpu", runner=runner, tensor_parallel_size=2)
    assert config.runner == "native"


@pytest.mark.usefixtures("with_kernels", "ranks_stand_in")
def test_ranks_too_narrow_for_it_are_pytorch_s(files: ModelFiles, caplog: pytest.LogCaptureFixture) -> None:
    """Each of four has one head of 16."""
    reason = "the model's heads' common size, 16, is no multiple of 32 on each of 4 ranks"
    with caplog.at_level(logging.WARNING, "octavo"):
        config: Any = built(files, device="cpu", tensor_parallel_size=4)
    assert config.runner == "torch"
    assert caplog.messages == [f"the native runner cannot serve {files.name}, so PyTorch does: {reason}"]
    with pytest.raises(ConfigError, match=f"^runner: native cannot serve {files.name}: {reason}"):
        built(files, device="cpu", runner="native", tensor_parallel_size=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"runner": "torch", "device": "cuda:1"},
            r"device: must be cuda, cpu or auto for 2 ranks, .*'cuda:1'",
        ),
        (
            {"runner": "torch", "tensor_parallel_size": 3},
            r"tensor_parallel_size: must divide the 4 query heads",
        ),
        ({"tensor_parallel_size": 0}, r"tensor_parallel_size: must be at least 1 \(got 0\)"),
    ],
)
def test_what_cannot_be_on_several_ranks_is_refused(
    files: ModelFiles, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        built(files, **{"device": "cpu", "tensor_parallel_size": 2, **settings})


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"must not exceed the 1 CUDA devices of this machine \(got 2\)"):
        torch_device("cuda", Group(0, 2))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "it has no float16": ({}, {"dtype": "float16"}),
    "hidden size, 72, is no multiple of 32": ({"hidden_size": 72}, {}),
    "intermediate size, 120, is no multiple of 32": ({"intermediate_size": 120}, {}),
    "heads' common size, 48, is no multiple of 32": (
        {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16},
        {},
    ),
    "head size, 40, is no multiple of 16": ({"head_dim": 40}, {}),
    "head size, 272, is above 256": ({"head_dim": 272}, {}),
    "more than 96 of the model's query heads": (
        {"num_attention_heads": 98, "num_key_value_heads": 1, "head_dim": 16},
        {},
    ),
}


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize(("reason", "what"), REFUSED.items(), ids=REFUSED.keys())
def test_what_the_native_runner_cannot_serve_pytorch_does(
    tiny_model: TinyModel,
    reason: str,
    what: tuple[dict[str, Any], dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, settings = what
    files = open_model(str(tiny_model("qwen3", **model)))
    with caplog.at_level(logging.WARNING, "octavo"):
        assert name(built(files, **settings)) == "TorchRunner"
    [line] = caplog.messages
    assert line.startswith(f"the native runner cannot serve {files.name}, so PyTorch does: ")
    assert reason in line

    with pytest.raises(ConfigError, match=f"^runner: native cannot serve {files.name}: .*{reason}"):
        built(files, runner="native", **settings)


@pytest.mark.usefixtures("with_kernels")
def test_rows_whose_sums_of_bytes_would_overflow_are_pytorchs(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "MAX_INT8_LENGTH", 100)
    assert name(built(files)) == "NativeRunner"
    with pytest.raises(
        ConfigError, match=r"^runner: native cannot serve .*weights, of up to 128, are too long"
    ):
        built(files, runner="native", quantization="int8")


def test_without_compiled_kernels_pytorch_serves(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING, "octavo"):
        assert name(built(files)) == "TorchRunner"
    assert "no C++ compiler was found" in caplog.text
    with pytest.raises(ConfigError, match=r"^runner: native .* no C\+\+ compiler was found"):
        built(files, runner="native")


@pytest.mark.usefixtures("with_kernels")
def test_every_shape_at_the_edge_of_what_is_refused_is_served(files: ModelFiles) -> None:
    config = EngineConfig(model=str(files.path))
    files.spec = replace(files.spec, num_heads=96, num_kv_heads=1, head_dim=256)
    assert refusal(files, config) is None


@pytest.mark.parametrize("device", ["dev/nvidia0", "dev/kfd", "dev/dxg"])
def test_a_gpu_is_seen_by_its_device_file(tmp_path: Path, device: str) -> None:
    assert not has_gpu(tmp_path)
    file = tmp_path / device
    file.parent.mkdir()
    file.touch()
    assert has_gpu(tmp_path)


@pytest.mark.usefixtures("with_kernels")
def test_memory_that_the_pool_does_not_have_is_refused(files: ModelFiles) -> None:
    runner = built(files, device="cpu")
    assert isinstance(runner, NativeRunner)
    with pytest.raises(ConfigError, match=r"^kv_cache_memory: .* GiB could not be allocated"):
        runner.allocate(2**56 // runner.block_bytes)  # more than any address space
