"""An output on a terminal: the answer goes to stdout; what leads to it or is told of it to stderr, dimmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from octavo.v1 import inference_pb2 as pb


class Speech:
    """Says the deltas of one output as they come. What is piped on from stdout is the answer only."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._thinking = False

    def say(self, delta: pb.Delta) -> None:
        if delta.reasoning:
            self._thinking = True
            self._aside(delta.reasoning, end="")
        if delta.text:
            self._answer()
            print(delta.text, end="", flush=True)

    def end(self) -> None:
        self._answer()
        print(flush=True)

    def note(self, text: str) -> None:
        """Something about the output, on a line of its own."""
        self._aside(text, end="\n")

    def _answer(self) -> None:
        """What comes now is no thought: it begins behind an empty line."""
        if self._thinking:
            self._thinking = False
            self._aside("", end="\n\n")

    def _aside(self, text: str, end: str) -> None:
        self._console.print(text, end=end, style="dim", highlight=False, markup=False, soft_wrap=True)
