"""Compiling the CPU kernels at install: only when there is need; without a compiler the install goes on."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from octavo.kernels.cpu.build import LIBRARY, NoCompiler, build
from octavo.kernels.cpu.library import is_available

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "kernels/octavo/kernels/cpu/build.py"


@pytest.fixture
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The script and its sources where nothing was compiled yet."""
    script = tmp_path / "cpu" / "build.py"
    (script.parent / "src").mkdir(parents=True)
    script.write_bytes(SCRIPT.read_bytes())
    (script.parent / "src" / "kernels.cpp").write_text("namespace OCTAVO_ISA { int octavo() { return 8; } }")
    return script


def test_without_a_compiler_the_install_goes_on_and_says_why(
    hook: ModuleType, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    library, reason = hook.compile_kernels(copied)
    assert library is None
    assert "no C++ compiler was found" in reason
    assert {path.name for path in copied.parent.iterdir()} - {"__pycache__"} == {"build.py", "src"}


@pytest.mark.skipif(not is_available(), reason="there may be no compiler")
def test_options_for_linking_come_from_ldflags(
    hook: ModuleType, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDFLAGS", "-s -Wl,-soname,as-the-environment-says.so")
    library, reason = hook.compile_kernels(copied)
    assert library is not None, reason
    assert b"as-the-environment-says.so" in library.read_bytes()


def test_a_compiler_that_fails_is_told_in_its_own_words(
    hook: ModuleType, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'unknown option -std=c++17' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    library, reason = hook.compile_kernels(copied)
    assert library is None
    assert reason == "the compiler failed:\nunknown option -std=c++17"


def test_a_compiler_that_cannot_be_run_is_as_good_as_none(
    hook: ModuleType, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "nothing"))
    library, reason = hook.compile_kernels(copied)
    assert library is None
    assert str(tmp_path / "nothing") in reason


@pytest.mark.skipif(not is_available(), reason="the CPU kernels are not compiled")
def test_a_library_newer_than_its_sources_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    library = tmp_path / LIBRARY.name
    library.write_bytes(b"compiled")
    assert build(library) == library
    assert library.read_bytes() == b"compiled"


def test_a_library_older_than_its_sources_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    library = tmp_path / LIBRARY.name
    library.write_bytes(b"compiled")
    os.utime(library, (0, 0))
    with pytest.raises(NoCompiler):
        build(library)
