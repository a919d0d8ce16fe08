"""What the compiler has made of the loops that products spend their time in, for every instruction set: for
those, too, that this machine does not run."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections import defaultdict
from typing import NamedTuple

import pytest

from octavo.kernels.cpu.build import LIBRARY, X86_FLAGS
from octavo.kernels.cpu.library import is_available

pytestmark = [
    pytest.mark.skipif(not is_available(), reason="the CPU kernels are not compiled"),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are x86's instructions"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="there is no objdump"),
]

FUNCTION = re.compile(
    r"[0-9a-f]+ <(?:void )?(\w+)::compute<\1::(?:\w+::)?(PlainForm<\1::\w+>|Int8Form), (\d+)>"
)
INSTRUCTION = re.compile(r"\s+([0-9a-f]+):\t(?:\{vex\} )?(\S+)\s*(.*)")
SUM = re.compile("vfmadd|vpmaddwd|vdpbf16ps|vpdpbusd")
OF_ACTIVATIONS = re.compile("vdivps")
"""A division is of the loop over a tile's finished rows."""


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


def innermost_loops(body: list[Instruction]) -> list[list[Instruction]]:
    """What lies between a jump backwards and where it leads, and holds no other such jump."""
    places = {instruction.address: place for place, instruction in enumerate(body)}
    loops = []
    for place, (_, name, operands) in enumerate(body):
        target = re.match(r"([0-9a-f]+) <", operands)
        start = places.get(int(target[1], 16)) if target and name.startswith("j") else None
        if start is not None and start <= place and not any(start <= first for first, _ in loops):
            loops.append((start, place))
    return [body[start : end + 1] for start, end in loops]


@pytest.fixture(scope="module")
def functions() -> dict[tuple[str, str, int], list[Instruction]]:
    """By instruction set, form and rows, `compute` of a tile."""
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(LIBRARY)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found: dict[tuple[str, str, int], list[Instruction]] = defaultdict(list)
    name = None
    for line in lines:
        if line.endswith(">:"):
            begins = FUNCTION.match(line)
            name = (begins[1], begins[2], int(begins[3])) if begins else None
        elif name is not None and (parts := INSTRUCTION.match(line)):
            found[name].append(Instruction(int(parts[1], 16), parts[2], parts[3]))
    return found


@pytest.mark.parametrize("isa", [isa for isa in X86_FLAGS if isa != "generic"])
def test_a_tiles_sums_stay_in_registers(
    functions: dict[tuple[str, str, int], list[Instruction]], isa: str
) -> None:
    """Sums that go through memory take bfloat16's products three times as long."""
    forms = set()
    for (of_isa, form, rows), body in functions.items():
        if of_isa != isa:
            continue
        for loop in innermost_loops(body):
            sums = sum(bool(SUM.match(each.name)) for each in loop)
            if not sums or any(OF_ACTIVATIONS.match(each.name) for each in loop):
                continue
            spilled = sum("(%rsp)" in each.operands and "mm" in each.operands for each in loop)
            assert 4 * spilled <= sums, f"{form}, {rows} rows: {spilled} of {sums} sums' operands in memory"
            forms.add(form)
    expected = {f"PlainForm<{isa}::Single>", f"PlainForm<{isa}::Pair>", "Int8Form"}
    if isa == "amx":
        expected.remove(f"PlainForm<{isa}::Pair>")  # by tiles alone
    assert forms == expected
