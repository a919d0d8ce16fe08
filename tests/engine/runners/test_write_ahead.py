"""The pages of the KV pool that come next are there before they are written, and nothing in them changes."""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from octavo.engine.config import EngineConfig
from octavo.engine.models.source import open_model
from octavo.engine.runners.native import NativeRunner
from octavo.kernels.cpu.library import is_available, library
from tests.conftest import TinyModel

from .steps import Piece, logits

pytestmark = [
    pytest.mark.skipif(not is_available(), reason="the CPU kernels are not compiled"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux runs threads where no other one wants to"),
]

MIB = 1 << 20
AHEAD = 512 * MIB
SECONDS = 60
"""The thread has to wait for a processor that nobody else wants."""


@pytest.fixture
def runner(tiny_model: TinyModel) -> NativeRunner:
    config = EngineConfig(model=str(tiny_model("llama", head_dim=64)), dtype="bfloat16")
    return NativeRunner(open_model(config.model), config, 512)


def allocated(runner: NativeRunner, num_blocks: int) -> np.ndarray:
    """A new pool, uint8: valid as long as the runner is."""
    num_bytes = num_blocks * runner.block_bytes
    address = library().octavo_decoder_allocate(runner._decoder, num_blocks)
    return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))


def resident(data: np.ndarray) -> int:
    """Bytes in memory of the mappings that `data` lies in."""
    start, total, inside = data.ctypes.data, 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first:
            low, high = (int(end, 16) for end in first.split("-"))
            inside = low < start + data.nbytes and start < high
        elif inside and first == "Rss:":
            total += int(rest[0]) * 1024
    return total


def wait_for(data: np.ndarray, num_bytes: int) -> None:
    end = time.monotonic() + SECONDS
    while resident(data) < num_bytes:
        assert time.monotonic() < end, f"{resident(data)} bytes are there, of {num_bytes}"
        time.sleep(0.01)


def test_a_pool_is_there_before_the_first_step(runner: NativeRunner) -> None:
    num_blocks = 16 * MIB // runner.block_bytes
    pool = allocated(runner, num_blocks)
    wait_for(pool, pool.nbytes)
    assert not pool.any()


def test_no_more_is_taken_than_soon_needed(runner: NativeRunner) -> None:
    num_blocks = 2 * AHEAD // runner.block_bytes
    pool = allocated(runner, num_blocks)
    wait_for(pool, AHEAD * 15 // 16)
    time.sleep(0.05)
    # Of each layer's share a huge page may be begun.
    most = AHEAD + runner._spec.num_layers * 2 * 2 * MIB
    assert resident(pool) <= most
    logits(runner, Piece([7, 11, 13], 0, 3, [num_blocks // 4]))
    wait_for(pool, AHEAD * 5 // 4)


def test_what_steps_write_meanwhile_stays(runner: NativeRunner) -> None:
    num_blocks = 64 * MIB // runner.block_bytes
    tokens = list(range(7, 17))
    allocated(runner, num_blocks)
    for text in (tokens, [*tokens, 3]):  # a prompt in each of many blocks, then a token after each
        start = 0 if text is tokens else len(tokens)
        found = [logits(runner, Piece(text, start, len(text), [block])) for block in range(0, num_blocks, 97)]
        assert all(np.array_equal(each, found[0]) for each in found)


def test_a_pool_may_be_replaced_while_its_pages_are_had(runner: NativeRunner) -> None:
    for _ in range(20):
        runner.allocate(AHEAD // runner.block_bytes)
