"""Where results go: JSON and a chart in benchmarks/results/, which git ignores."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.harness.processes import Line

FOLDER = Path(__file__).parents[1] / "results"


def keep(name: str, result: Any, chart: str | None = None) -> list[Path]:
    """Writes name.json and, if there is a chart, name.svg; where they are."""
    FOLDER.mkdir(exist_ok=True)
    paths = [FOLDER / f"{name}.json"]
    paths[0].write_text(json.dumps(result, indent=1) + "\n")
    if chart is not None:
        paths.append(FOLDER / f"{name}.svg")
        paths[1].write_text(chart)
    return paths


def rate_of(workload: str) -> str:
    """Which of a line's rates tells of a workload: output tokens, but where nearly all are prompt's."""
    return "total_tokens_per_s" if workload == "prefill" else "output_tokens_per_s"


def rate(lines: Iterable[Line], workload: str) -> float | None:
    """The median rate of the lines of a workload; None if there are none."""
    rates = [line[rate_of(workload)] for line in lines if line["workload"] == workload]
    return statistics.median(rates) if rates else None
