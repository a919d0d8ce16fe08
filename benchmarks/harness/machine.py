"""What this machine can do at best: how fast it reads memory, and how fast it multiplies matrices."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.memory import available_cpus

if TYPE_CHECKING:
    from collections.abc import Callable

READ_BYTES = 1 << 28
"""Far more than any cache has."""
MATRIX = 2048
_TORCH_RATES = f"""
import json, time, torch
torch.set_num_threads({{threads}})
def rate(a, b, product):
    product(a, b)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        product(a, b)
        best = max(best, 2 * {MATRIX}**3 / (time.perf_counter() - start))
    return best
a, b = (torch.randn({MATRIX}, {MATRIX}, dtype=torch.bfloat16) for _ in range(2))
print(json.dumps({{{{"bf16": rate(a, b, torch.mm)}}}}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """memory_read: bytes per second. bf16, int8: operations per second, two for each multiplication; None
    where nothing here can measure it. processor: its name; cpus: how many may be used."""

    memory_read: float
    bf16: float | None = None
    int8: float | None = None
    processor: str = ""
    cpus: int = 1

    def words(self) -> str:
        rates = [("bf16", self.bf16, "GFLOP/s"), ("int8", self.int8, "GOP/s")]
        known = [f"{name} {rate / 1e9:.0f} {unit}" for name, rate, unit in rates if rate is not None]
        read = f"memory read {self.memory_read / 1e9:.1f} GB/s"
        return ", ".join([f"{self.processor}, {self.cpus} CPUs: {read}", *known])


def measure(bf16: float | None = None, int8: float | None = None) -> Limits:
    """bf16, int8: rates that are known, as of the instructions; otherwise bf16's is what oneDNN reaches in
    torch, where that is installed."""
    return Limits(
        memory_read=memory_read(),
        bf16=bf16 if bf16 is not None else torch_rate(),
        int8=int8,
        processor=processor(),
        cpus=available_cpus(),
    )


def memory_read() -> float:
    """Bytes per second, all processors reading together, the best of several."""
    words = np.ones(READ_BYTES // 8, np.uint64)
    parts = np.array_split(words, available_cpus())
    with ThreadPoolExecutor(len(parts)) as pool:
        return READ_BYTES / best_seconds(lambda: list(pool.map(np.bitwise_or.reduce, parts)), 12)


def torch_rate() -> float | None:
    """In a process of its own: torch would stay, with its threads."""
    if importlib.util.find_spec("torch") is None:
        return None
    code = _TORCH_RATES.format(threads=available_cpus())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return float(json.loads(done.stdout)["bf16"]) if done.returncode == 0 else None


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def best_seconds(run: Callable[[], object], times: int) -> float:
    run()
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
