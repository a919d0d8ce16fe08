"""Every set of instructions that this machine has computes what the best one computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from octavo.kernels.cpu.build import X86_FLAGS
from octavo.kernels.cpu.library import is_available, library
from tests.conftest import TinyModel

pytestmark = pytest.mark.skipif(not is_available(), reason="the CPU kernels are not compiled")

ROOT = Path(__file__).parents[3]
FORMS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
    "int4": {"dtype": "bfloat16", "quantization": "int4"},
    "int8 with keys and values in 8 bits": {
        "dtype": "bfloat16",
        "quantization": "int8",
        "kv_cache_dtype": "int8",
    },
}
ERRORS = {form: 1e-5 if form == "float32" else 0.015 for form in FORMS}
"""Relative; where something is rounded, another order of sums rounds a few numbers the other way."""

COMPUTE = f"""
import sys
import numpy as np
from octavo.engine.config import EngineConfig
from octavo.engine.models.source import open_model
from octavo.engine.runners.native import NativeRunner
from octavo.kernels.cpu.library import library
from tests.engine.runners.steps import Piece, logits

path, out = sys.argv[1:]
tokens = np.random.default_rng(0).integers(3, 384, 300)
found = {{"isa": np.array(library().octavo_isa().decode())}}
for form, settings in {FORMS!r}.items():
    runner = NativeRunner(open_model(path), EngineConfig(model=path, threads=1, **settings), 512)
    runner.allocate(40)
    prefill = logits(runner, Piece(tokens, 0, 250, range(20)), Piece(tokens, 0, 13, [30], [0, 12]))
    decode = logits(runner, Piece(tokens, 250, 251, range(20)), Piece(tokens, 13, 14, [30]))
    found[form] = np.concatenate([prefill, decode])
np.savez(out, **found)
"""


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Path:
    return tiny_model("qwen3", head_dim=80, num_key_value_heads=1, num_attention_heads=6, vocab_size=389)


@pytest.fixture(scope="module")
def best(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return compute(model, tmp_path_factory.mktemp("best") / "logits.npz", library().octavo_isa().decode())


def compute(model: Path, out: Path, isa: str) -> dict[str, np.ndarray]:
    """Logits by form, of a process that may use this instruction set. Skips where the processor lacks it."""
    environment = {**os.environ, "OCTAVO_ISA": isa}
    subprocess.run([sys.executable, "-c", COMPUTE, model, out], env=environment, cwd=ROOT, check=True)
    with np.load(out) as found:
        if str(found["isa"]) != isa:
            pytest.skip(f"this processor has no {isa}")
        return dict(found)


@pytest.mark.parametrize("isa", X86_FLAGS)
def test_logits_are_near_those_of_the_best_instruction_set(
    model: Path, best: dict[str, np.ndarray], isa: str, tmp_path: Path
) -> None:
    found = compute(model, tmp_path / "logits.npz", isa)
    for form, error in ERRORS.items():
        distance = np.linalg.norm(found[form] - best[form])
        assert distance <= error * np.linalg.norm(best[form]), form
