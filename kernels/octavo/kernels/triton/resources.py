"""One variant through Triton's compiler for one architecture, with no GPU: what its machine code takes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tempfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

if TYPE_CHECKING:
    from pathlib import Path

    from octavo.kernels.triton.architectures import Architecture
    from octavo.kernels.triton.registry import Variant


@dataclass(frozen=True, slots=True)
class Resources:
    """registers: of a thread. spills: bytes of a thread's registers that the code keeps in memory. shared:
    bytes of a program. occupancy: estimated share of a multiprocessor's warps that can be resident.
    error: why there is no machine code; the rest means nothing then."""

    registers: int = 0
    spills: int = 0
    shared: int = 0
    occupancy: float = 0.0
    error: str = ""

    def fault(self, hot: bool) -> str | None:
        """Why a build should fail for it."""
        if self.error:
            return self.error
        if not self.occupancy:
            return f"not one program fits a multiprocessor: {self.registers} registers, {self.shared} bytes"
        return f"spills {self.spills} bytes" if hot and self.spills else None


def key(variant: Variant, architecture: Architecture) -> str:
    """Changes whenever the machine code may."""
    parts = (
        triton.__version__,
        variant.kernel.cache_key,
        sorted(variant.arguments.items()),
        sorted(variant.all_constants.items()),
        sorted(variant.tile.options.items()),
        architecture,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def measured(variant: Variant, architecture: Architecture, cache: Path | None) -> Resources:
    """Of an earlier run, from the folder `cache`, or of a compilation now."""
    kept = cache / f"{key(variant, architecture)}.json" if cache else None
    if kept and kept.exists():
        return Resources(**json.loads(kept.read_text()))
    result = compiled(variant, architecture)
    if kept and not result.error:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(asdict(result)))
    return result


def compiled(variant: Variant, architecture: Architecture) -> Resources:
    names = set(variant.arguments) | set(variant.all_constants)
    assert names == set(variant.kernel.arg_names), f"{variant.name}: {names ^ set(variant.kernel.arg_names)}"
    types = [variant.arguments.get(name, "constexpr").split(":") for name in variant.kernel.arg_names]
    source = ASTSource(
        variant.kernel,
        signature={name: t[0] for name, t in zip(variant.kernel.arg_names, types, strict=True)},
        constexprs=variant.all_constants,
        attrs={(i,): [["tt.divisibility", int(t[1])]] for i, t in enumerate(types) if len(t) > 1},
    )
    target = GPUTarget(architecture.backend, architecture.arch, architecture.warp_size)
    log = io.StringIO()
    try:
        # What ptxas says is only shown when it runs: Triton's own cache must not have the result.
        with tempfile.TemporaryDirectory() as folder, knobs.cache.scope(), knobs.nvidia.scope():
            knobs.cache.dir = folder
            knobs.nvidia.dump_ptxas_log = True
            with contextlib.redirect_stdout(log):
                kernel = triton.compile(source, target=target, options=variant.tile.options)
    except Exception as error:  # whatever the compiler raises is the finding
        return Resources(error=f"{type(error).__name__}: {error}".strip())
    shared = int(kernel.metadata.shared)
    if architecture.backend == "cuda":
        registers, spills = _of_ptxas(log.getvalue())
    else:
        registers, spills = _of_amdgcn(kernel.asm["amdgcn"])
    occupancy = architecture.occupancy(registers, shared, variant.tile.num_warps)
    return Resources(registers, spills, shared, occupancy)


def _of_ptxas(log: str) -> tuple[int, int]:
    """Registers and spilled bytes, of `ptxas -v`."""
    return _number(r"Used (\d+) registers", log), _number(r"(\d+) bytes spill stores", log)


def _of_amdgcn(assembly: str) -> tuple[int, int]:
    """Of the metadata that ends the assembly: accumulation registers are in its vgpr_count. A scalar register
    that spills goes to a lane of a vector register first, so only those that reach memory count."""
    registers = _number(r"\.vgpr_count:\s+(\d+)", assembly)
    spilled = _number(r"\.vgpr_spill_count:\s+(\d+)", assembly)
    return registers, 4 * spilled


def _number(pattern: str, text: str) -> int:
    found: Any = re.search(pattern, text)
    assert found, f"the compiler's output has no {pattern!r}"
    return int(found[1])
