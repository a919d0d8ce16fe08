"""A flame graph of what a step costs beside the runner, as SVG.

    python -m benchmarks.flame [--output benchmarks/results/step.svg]

py-spy samples `benchmarks.step_costs --no-model` from outside; only what `LLM` does in its loop is drawn, so
neither imports nor loading. Widths are shares of the loop, callers stand below those whom they call.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness.results import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WIDTH, ROW, SMALLEST = 1200.0, 18, 2.0
ROOT = "_run ("
SHADES = ("#ffd8a8", "#ffc078", "#ffa94d", "#ffec99", "#ffe066")


@dataclass(slots=True)
class Frame:
    """A function in one place of the stack. samples: of it and of all that it calls."""

    name: str
    samples: int = 0
    calls: dict[str, Frame] = field(default_factory=dict)

    def add(self, stack: list[str], samples: int) -> None:
        self.samples += samples
        if stack:
            self.calls.setdefault(stack[0], Frame(stack[0])).add(stack[1:], samples)

    @property
    def depth(self) -> int:
        return 1 + max((frame.depth for frame in self.calls.values()), default=0)


def collect(lines: Iterable[str]) -> Frame:
    """lines: stacks as py-spy's raw format has them, `caller;called;… samples`."""
    root = Frame("the loop of LLM")
    for line in lines:
        stack, samples = line.rsplit(" ", 1)
        # Without the lines' numbers, and without the clocks that stand between.
        frames = [name.rsplit(":", 1)[0].rstrip(")") + ")" for name in stack.split(";")]
        at = [i for i, name in enumerate(frames) if name.startswith(ROOT) or "._run (" in name]
        inside = [name for name in frames[at[-1] + 1 :] if "step_costs" not in name] if at else []
        if at and "llm.py" in frames[at[-1]]:
            root.add(inside, int(samples))
    return root


def draw(root: Frame) -> str:
    height = (root.depth + 2) * ROW
    body = "\n".join(_boxes(root, 0.0, WIDTH / max(root.samples, 1), 0, height - ROW, root.samples))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height}"'
    return f"{head} style=\"font-family:'DejaVu Sans Mono',monospace;font-size:11px\">\n{body}\n</svg>\n"


def _boxes(frame: Frame, x: float, scale: float, depth: int, floor: float, whole: int) -> Iterator[str]:
    width = frame.samples * scale
    if width < SMALLEST:
        return
    y, name = floor - depth * ROW, escape(frame.name)
    shade = SHADES[sum(frame.name.encode()) % len(SHADES)]
    letters = max(int(width / 6.8) - 1, 0)
    label = escape(frame.name[:letters]) if letters > 2 else ""
    yield (
        f'<g><title>{name}: {frame.samples / whole:.1%}</title><rect x="{x:.1f}" y="{y - ROW + 2:.1f}" '
        f'width="{max(width - 0.5, 0.5):.1f}" height="{ROW - 1}" fill="{shade}"/>'
        f'<text x="{x + 3:.1f}" y="{y - 3:.1f}">{label}</text></g>'
    )
    for called in sorted(frame.calls.values(), key=lambda each: each.name):
        yield from _boxes(called, x, scale, depth + 1, floor, whole)
        x += called.samples * scale


def profile(raw: Path) -> None:
    """Samples a run of the loop into `raw`."""
    spy = Path(sys.executable).with_name("py-spy")
    words = [str(spy), "record", "--rate", "1000", "--format", "raw", "--output", str(raw), "--"]
    run = [sys.executable, "-m", "benchmarks.step_costs", "--no-model", "--num-tokens", "1500"]
    subprocess.run([*words, *run], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=FOLDER / "step.svg")
    parser.add_argument("--stacks", type=Path, help="py-spy's raw output of an earlier run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stacks = options.stacks or Path(folder) / "stacks"
        if options.stacks is None:
            profile(stacks)
        options.output.parent.mkdir(exist_ok=True)
        options.output.write_text(draw(collect(stacks.read_text().splitlines())))
    print("written:", options.output)


if __name__ == "__main__":
    main()
