"""What this machine can do at best: how fast it reads memory, and how fast it multiplies matrices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from octavo.engine.memory import available_cpus
from octavo.kernels.cpu import probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """memory_read: bytes per second. bf16, int8: operations per second, two for each multiplication, of the
    instructions that products are made of. processor: its name; cpus: how many may be used."""

    memory_read: float
    bf16: float
    int8: float
    processor: str = ""
    cpus: int = 1

    def words(self) -> str:
        return (
            f"{self.processor}, {self.cpus} CPUs: memory read {self.memory_read / 1e9:.1f} GB/s, "
            f"bf16 {self.bf16 / 1e9:.0f} GFLOP/s, int8 {self.int8 / 1e9:.0f} GOP/s"
        )


def measure(bf16: float | None = None, int8: float | None = None) -> Limits:
    """bf16, int8: rates that are known better."""
    found = probe.measure(available_cpus())
    return Limits(
        memory_read=found.memory_read,
        bf16=bf16 or found.bf16,
        int8=int8 or found.int8,
        processor=processor(),
        cpus=available_cpus(),
    )


def processor() -> str:
    return _cpuinfo("model name")


def has_amx() -> bool:
    return "amx_int8" in _cpuinfo("flags").split()


def _cpuinfo(name: str) -> str:
    """Of the first processor; empty if it does not say."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
