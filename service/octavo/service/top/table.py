"""A snapshot as a table that fits: narrow terminals lose columns, short ones rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from octavo.service.top.snapshot import Model, Pod, Snapshot

STATE_STYLES = {"serving": "green", "connecting": "yellow", "draining": "magenta", "ejected": "red"}
EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a pod."""

    title: str
    cell: Callable[[Pod], Text | str]
    is_number: bool = True


def table(snapshot: Snapshot, width: int, height: int | None = None, trouble: str = "") -> Group:
    """The whole picture, `width` columns by at most `height` lines.

    trouble: why the snapshot is not of now, if so.
    """
    lines = [_headline(snapshot)]
    if trouble:
        lines.append(Text(f"reconnecting: {trouble}", style="red", no_wrap=True, overflow="ellipsis"))
    shown, hidden = _cropped(list(_rows(snapshot)), None if height is None else height - len(lines) - 2)
    name_width = min(max((cell_len(name) for name, _ in shown), default=0), max(10, width // 4))
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), style="dim" if trouble else "")
    grid.add_column("MODEL", no_wrap=True, overflow="ellipsis", max_width=max(name_width, len("MODEL")))
    columns = _fitting([content for _, content in shown], width - max(name_width, len("MODEL")))
    for column in columns:
        grid.add_column(column.title, justify="right" if column.is_number else "left", no_wrap=True)
    for name, content in shown:
        if isinstance(content, str):
            grid.add_row(name, Text(content, style="yellow"))
        else:
            grid.add_row(name, *(column.cell(content) for column in columns))
    return Group(*lines, grid, *([Text(f"… {hidden} more", style="dim")] if hidden else []))


def bar(held: float, cached: float, width: int) -> Text:
    """Held blocks solid, cached ones shaded, the rest empty."""
    style = "red" if held >= 0.9 else "yellow" if held >= 0.7 else "green"
    whole, part = divmod(round(held * width * 8), 8)
    solid = "█" * whole + (EIGHTHS[part] if part else "")
    shaded = "░" * min(round(cached * width), width - len(solid))
    return Text.assemble((solid, style), (shaded, "dim"), " " * (width - len(solid) - len(shaded)))


def _fitting(contents: list[Pod | str], room: int) -> list[Column]:
    """As many columns, and as long a bar, as there is room for."""
    for bar_width, without in (
        (20, ""),
        (10, ""),
        (10, "HELD/TOTAL"),
        (10, "HELD/TOTAL, IN FLIGHT"),
        (5, "HELD/TOTAL, IN FLIGHT"),
        (5, "HELD/TOTAL, IN FLIGHT, TOKENS/S"),
        (5, "HELD/TOTAL, IN FLIGHT, TOKENS/S, POD"),
        (5, "HELD/TOTAL, IN FLIGHT, TOKENS/S, POD, RUN"),
    ):
        columns = [column for column in _columns(bar_width) if column.title not in without]
        if sum(2 + _width(column, contents) for column in columns) <= room:
            break
    return columns


def _width(column: Column, contents: list[Pod | str]) -> int:
    cells = (column.cell(content) for content in contents if not isinstance(content, str))
    return max(
        len(column.title), *(cell_len(cell if isinstance(cell, str) else cell.plain) for cell in cells), 0
    )


def _columns(bar_width: int) -> list[Column]:
    return [
        Column("POD", lambda pod: pod.address, is_number=False),
        Column("STATE", _state, is_number=False),
        Column("KV", lambda pod: _kv(pod, bar_width), is_number=False),
        Column("HELD/TOTAL", _blocks),
        Column("RUN", lambda pod: str(pod.load.running) if pod.load else "–"),
        Column("WAIT", lambda pod: str(pod.load.waiting) if pod.load else "–"),
        Column("TOKENS/S", _rate),
        Column("IN FLIGHT", lambda pod: "–" if pod.in_flight is None else str(pod.in_flight)),
    ]


def _headline(snapshot: Snapshot) -> Text:
    pods, models = len(snapshot.pods), len(snapshot.models)
    figures = [f"{snapshot.kind} {snapshot.server}"]
    if snapshot.kind == "gateway":
        figures.append(f"{models} model{'s' * (models != 1)}, {pods} pod{'s' * (pods != 1)}")
    figures.append(f"{snapshot.tokens_per_second:.0f} tokens/s")
    return Text(" · ".join(figures), style="bold", no_wrap=True, overflow="ellipsis")


def _rows(snapshot: Snapshot) -> Iterator[tuple[str, Pod | str]]:
    """A line each: the model's name where it is new, and a pod or what there is to say instead."""
    for model in snapshot.models:
        name = model.name
        for content in _contents(model):
            yield name, content
            name = ""


def _contents(model: Model) -> Iterator[Pod | str]:
    if model.waiting:
        yield f"{model.waiting} waiting"
    elif not model.pods:
        yield "no pods"
    yield from model.pods


def _cropped(rows: list[tuple[str, Pod | str]], room: int | None) -> tuple[list[tuple[str, Pod | str]], int]:
    """As many rows as there is room for, the line that tells how many are left out included."""
    if room is None or len(rows) <= room:
        return rows, 0
    shown = rows[: max(room - 1, 1)]
    return shown, len(rows) - len(shown)


def _state(pod: Pod) -> Text:
    if pod.is_stale and pod.state == "serving":
        return Text(f"silent {pod.age:.0f} s", style="yellow")
    return Text(pod.state, style=STATE_STYLES.get(pod.state, ""))


def _kv(pod: Pod, width: int) -> Text | str:
    if pod.load is None:
        return "–"
    return Text.assemble(bar(pod.held, pod.cached, width), f" {pod.held * 100:3.0f}%")


def _blocks(pod: Pod) -> str:
    return f"{pod.load.held_blocks}/{pod.load.total_blocks}" if pod.load else "–"


def _rate(pod: Pod) -> str:
    return f"{pod.load.output_tokens_per_second:.0f}" if pod.load else "–"
