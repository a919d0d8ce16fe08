"""Bars as SVG: a row of groups, and in each a bar for every engine."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOURS = ("#0b7285", "#22b8cf", "#99e9f2", "#e8590c", "#f08c00", "#fab005", "#868e96", "#ced4da")
LEFT, RIGHT, TOP, BAR, GAP, GROUP_GAP, WIDTH = 130, 120, 64, 16, 3, 22, 860


@dataclass(frozen=True, slots=True)
class Bar:
    """label: the series that it belongs to. note: behind its value. limit: a mark at the most that is
    possible."""

    label: str
    value: float
    note: str = ""
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Its bars are drawn against the longest of them, or the farthest limit: groups differ in scale."""

    name: str
    bars: Sequence[Bar]


def bars(title: str, subtitle: str, groups: Sequence[Group]) -> str:
    """The chart as an SVG document."""
    labels = list(dict.fromkeys(bar.label for group in groups for bar in group.bars))
    colour = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}
    parts = [_text(LEFT, 24, title, size=16, weight="600"), _text(LEFT, 42, subtitle, fill="#868e96")]
    y = float(TOP)
    parts += _legend(labels, colour, y)
    y += 22 * -(-len(labels) // 4) + 8
    for group in groups:
        most = max([*(bar.value for bar in group.bars), *(bar.limit or 0 for bar in group.bars)], default=1.0)
        scale = (WIDTH - LEFT - RIGHT) / (most or 1.0)
        height = len(group.bars) * (BAR + GAP)
        parts.append(_text(LEFT - 10, y + height / 2 + 3, group.name, anchor="end", weight="600"))
        for bar in group.bars:
            length = bar.value * scale
            parts.append(_rect(LEFT, y, length, BAR, colour[bar.label]))
            if bar.limit is not None:
                x = LEFT + bar.limit * scale
                parts.append(f'<path d="M{x:.1f} {y - 1:.1f}v{BAR + 2}" stroke="#212529" stroke-width="2"/>')
            end = LEFT + max(
                length, (bar.limit or 0) * scale if (bar.limit or 0) * scale < length + 60 else 0
            )
            parts.append(_text(end + 6, y + BAR - 4, f"{bar.value:,.0f}{bar.note}"))
            y += BAR + GAP
        y += GROUP_GAP
    style = "font-family:system-ui,'DejaVu Sans',sans-serif;font-size:12px"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" style="{style}">'
    return "\n".join([head, _rect(0, 0, WIDTH, y, "#ffffff"), *parts, "</svg>\n"])


def _legend(labels: Sequence[str], colour: dict[str, str], y: float) -> list[str]:
    parts = []
    for i, label in enumerate(labels):
        x, row = LEFT + (i % 4) * 165, y + 22 * (i // 4)
        parts += [_rect(x, row, 12, 12, colour[label]), _text(x + 18, row + 10, label)]
    return parts


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'


def _text(
    x: float, y: float, text: str, *, size: int = 12, weight: str = "400", anchor: str = "start",
    fill: str = "#212529",
) -> str:  # fmt: skip
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" font-weight="{weight}" fill="{fill}">{escape(text)}</text>'
