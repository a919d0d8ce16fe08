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
