"""What the torch runner computes with on a machine without a GPU."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["reference", pytest.param("triton", marks=pytest.mark.no_cover)])
def kernels(request: pytest.FixtureRequest) -> str:
    """Counting lines doubles what the interpreter takes; tests/kernels/triton counts those of the kernels."""
    if request.param == "triton":
        request.getfixturevalue("triton_kernels")
    name: str = request.param
    return name
