"""Which room may import what, and what importing one costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_rooms_import_only_what_they_may() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import octavo.engine",
        "from octavo.engine import LLM, AsyncEngine",
        "import octavo.engine.engine, octavo.engine.models.source",
        "import octavo.service.cli",
        "import octavo.service.gateway.run, octavo.operator.main",
    ],
)
def test_torch_and_transformers_are_not_imported_before_a_model_is_loaded(imports: str) -> None:
    code = f"{imports}\nimport sys\nassert not {{'torch', 'transformers'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


COSTLY = (
    *(
        "torch",
        "transformers",
        "gguf",
        "huggingface_hub",
        "safetensors",
        "tokenizers",
        "jinja2",
        "llguidance",
    ),
    *("pydantic", "yaml", "typer", "rich", "uvicorn", "httptools", "opentelemetry.sdk", "prometheus_client"),
)
"""What takes long to import, and what a server that has just become ready has not needed yet."""

READY = """
import os, sys, types

class Runner:  # serves only where the native one cannot, and computes nothing
    block_bytes, device, dtype = 1024, "cpu", "bfloat16"
    def __init__(self, *_): ...
    def free_memory(self): return 2**30
    def allocate(self, num_blocks): ...

sys.modules["octavo.engine.runners.torch"] = types.ModuleType("octavo.engine.runners.torch")
sys.modules["octavo.engine.runners.torch"].TorchRunner = Runner

from octavo.service import cli
from octavo.service.server import afterwork

costly = sys.argv.pop().split()

async def look(*_):
    print("loaded:", *(name for name in costly if sys.modules.get(name)), flush=True)
    os._exit(0)

afterwork.Afterwork.run = look
cli.main()
"""


def test_a_server_is_ready_before_it_imports_what_takes_long() -> None:
    """Nothing of it: neither for gRPC nor for the HTTP that was asked for, too."""
    serve = ["serve", "smollm2", "--port=0", "--http", "--http-port=0", "--kv-cache-memory=4Mi"]
    command = [sys.executable, "-c", READY, *serve, " ".join(COSTLY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["loaded:"], done.stdout + done.stderr
    assert "ready in" in done.stderr


def test_the_command_itself_imports_neither_grpc_nor_typer() -> None:
    check = "assert not {'typer', 'rich', 'grpc'} & sys.modules.keys()"
    code = f"import sys; from octavo.service import cli\n{check}"
    subprocess.run([sys.executable, "-c", code], check=True)
