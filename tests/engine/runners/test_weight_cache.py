"""Packed weights are kept in files: mapped by the next start, never trusted too far, and never needed."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from octavo.engine.config import EngineConfig
from octavo.engine.models.source import open_model
from octavo.engine.runners.native import NativeRunner
from octavo.engine.runners.native import cache as cache_module
from octavo.engine.runners.native.weights import PackedWeights
from octavo.kernels.cpu.library import is_available
from tests.conftest import TinyModel

from .steps import Piece, logits

pytestmark = pytest.mark.skipif(not is_available(), reason="the CPU kernels are not compiled")

TOKENS = [7, 11, 13, 17, 19]


class Starts:
    """Starts of the runner on one model with one cache, and how often weights were packed for them."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.num_packed = 0

    def __call__(self, **settings: Any) -> np.ndarray:
        """Logits of a runner that has just started."""
        config = EngineConfig(
            model=str(self.model), **{"weight_cache": str(self.folder), "dtype": "bfloat16", **settings}
        )
        runner = NativeRunner(open_model(str(self.model)), config, 512)
        runner.allocate(1)
        return logits(runner, Piece(TOKENS, 0, len(TOKENS), [0]))

    @property
    def kept(self) -> list[Path]:
        return sorted(self.folder.rglob("*")) if self.folder.is_dir() else []


@pytest.fixture
def start(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    model = tmp_path / "model"
    shutil.copytree(tiny_model("llama", head_dim=64), model)
    starts = Starts(model, tmp_path / "cache")
    fill = PackedWeights.fill

    def counting(*arguments: Any) -> None:
        starts.num_packed += 1
        fill(*arguments)

    monkeypatch.setattr(PackedWeights, "fill", counting)
    return starts


def test_the_second_start_maps_what_the_first_packed(start: Starts) -> None:
    first = start()
    [file] = start.kept
    np.testing.assert_array_equal(start(), first)
    assert start.num_packed == 1
    assert start.kept == [file]


def test_each_form_is_kept_apart(start: Starts) -> None:
    found = [start(), start(dtype="float32"), start(quantization="int8"), start(quantization="int4")]
    assert start.num_packed == len(start.kept) == 4
    again = [start(), start(dtype="float32"), start(quantization="int8"), start(quantization="int4")]
    assert start.num_packed == 4
    np.testing.assert_array_equal(again, found)


def test_a_changed_model_is_packed_anew(start: Starts) -> None:
    first = start()
    weights = start.model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5000:] = bytes(5000)
    weights.write_bytes(data)
    os.utime(weights, ns=(1, 1))
    assert not np.array_equal(start(), first)
    assert start.num_packed == 2


def test_a_file_that_was_cut_off_is_replaced(start: Starts) -> None:
    first = start()
    [file] = start.kept
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(start(), first)
    assert start.kept == [file]
    assert file.read_bytes() == whole


def test_off_writes_nothing(start: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(start.folder))
    start(weight_cache="off")
    start(weight_cache="off")
    assert start.num_packed == 2
    assert not start.kept


def test_the_default_folder_is_the_users_cache(start: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(start.folder))
    start(weight_cache=None)
    assert [file.parent for file in start.kept if file.is_file()] == [start.folder / "octavo" / "weights"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_module.default_folder() == Path("/home/somebody/.cache/octavo/weights")


def test_a_folder_may_be_given_from_home_on(start: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(start.folder))
    start(weight_cache="~/packed")
    assert [file.parent for file in start.kept if file.is_file()] == [start.folder / "packed"]


def test_a_folder_that_cannot_be_made_is_survived(start: Starts, caplog: pytest.LogCaptureFixture) -> None:
    first = start()
    start.folder = start.model / "config.json" / "cache"
    with caplog.at_level(logging.INFO, "octavo"):
        np.testing.assert_array_equal(start(), first)
    assert "packed weights are not kept" in caplog.text


def test_a_folder_that_cannot_be_written_to_is_survived(
    start: Starts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    first = start(weight_cache="off")
    # Those who may do everything can write everywhere, so it is only made to look so.
    monkeypatch.setattr(cache_module.tempfile, "mkstemp", refuse)
    with caplog.at_level(logging.INFO, "octavo"):
        np.testing.assert_array_equal(start(), first)
    assert "packed weights are not kept: [Errno 13]" in caplog.text


def test_a_cache_never_fills_the_file_system(
    start: Starts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module.os, "statvfs", lambda path: SimpleNamespace(f_bavail=100, f_frsize=4096))
    with caplog.at_level(logging.INFO, "octavo"):
        start()
    assert "too little room" in caplog.text
    assert not [file for file in start.kept if file.is_file()]


def test_room_that_runs_out_meanwhile_is_survived(start: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module.os, "posix_fallocate", full)
    start()
    assert not [file for file in start.kept if file.is_file()]


def test_a_start_that_fails_while_packing_leaves_nothing(
    start: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(PackedWeights, "fill", fail)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        start()
    assert not [file for file in start.kept if file.is_file()]


def test_what_a_killed_start_has_left_goes_when_it_is_old(start: Starts) -> None:
    start.folder.mkdir()
    old, new = start.folder / "a.unfinished", start.folder / "b.unfinished"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    start()
    assert not old.exists()
    assert new.exists()


def test_processes_that_start_at_once_compute_the_same(start: Starts) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from octavo.engine.config import EngineConfig
from octavo.engine.models.source import open_model
from octavo.engine.runners.native import NativeRunner
from tests.engine.runners.steps import Piece, logits
path, folder = sys.argv[1:]
config = EngineConfig(model=path, weight_cache=folder, dtype="bfloat16")
runner = NativeRunner(open_model(path), config, 512)
runner.allocate(1)
sys.stdout.write(logits(runner, Piece({TOKENS}, 0, {len(TOKENS)}, [0])).tobytes().hex())
"""
    command = [sys.executable, "-c", code, start.model, start.folder]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert bytes.fromhex(outputs[0].decode()) == start(weight_cache="off").tobytes()
    assert outputs[1:] == outputs[:1] * 2
    assert [file.suffix for file in start.kept] == [".weights"]
