"""`octavo top`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from octavo.engine import ConfigError
from octavo.service.commands.connection import ADDRESS
from octavo.service.top.feed import Trouble, first, watch
from octavo.service.top.snapshot import as_dict
from octavo.service.top.table import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from octavo.service.top.snapshot import Snapshot

USUAL = ("localhost:50050", "localhost:50051")
"""Where a gateway is, and where a pod is, if nobody says otherwise."""
SHORTEST = 0.01
"""Seconds; servers refuse to tell more often."""


def show_top(server: str | None, interval: float, once: bool, as_json: bool) -> None:
    """ConfigError for a bad flag; ServerError where there is nothing to show."""
    if server is not None and not ADDRESS.fullmatch(server):
        raise ConfigError(f"flag --server: must be host:port or unix:path (got {server!r})")
    if not interval >= SHORTEST:
        raise ConfigError(f"flag --interval: must be at least {SHORTEST:g} s (got {interval:g})")
    servers = USUAL if server is None else (server,)
    console = Console()
    if once or not (as_json or console.is_terminal):
        _print(console, asyncio.run(first(servers)), as_json)
    elif as_json:
        with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
            asyncio.run(_stream(console, servers, interval))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_live(console, servers, interval))


def _print(console: Console, snapshot: Snapshot, as_json: bool) -> None:
    if as_json:
        print(json.dumps(as_dict(snapshot), ensure_ascii=False), flush=True)
    else:
        console.print(table(snapshot, console.width))


async def _stream(console: Console, servers: tuple[str, ...], interval: float) -> None:
    """An object a line; trouble goes to stderr."""
    async with aclosing(watch(servers, interval)) as news:
        async for told in news:
            if isinstance(told, Trouble):
                print(f"octavo: {told.message}", file=sys.stderr)
            else:
                _print(console, told, as_json=True)


async def _live(console: Console, servers: tuple[str, ...], interval: float) -> None:
    last: Snapshot | None = None
    trouble = ""

    def picture() -> RenderableType:
        if last is None:
            return Text(trouble or f"connecting to {' or '.join(servers)}")
        return table(last, console.width, console.height, trouble)

    quitting = asyncio.Event()
    with _keys(quitting), Live(console=console, screen=True, auto_refresh=False) as screen:
        screen.update(picture(), refresh=True)

        async def show() -> None:
            nonlocal last, trouble
            async for told in watch(servers, interval):
                if isinstance(told, Trouble):
                    trouble = told.message
                else:
                    last, trouble = told, ""
                screen.update(picture(), refresh=True)

        showing = asyncio.ensure_future(show())
        quit_ = asyncio.ensure_future(quitting.wait())
        await asyncio.wait([showing, quit_], return_when=asyncio.FIRST_COMPLETED)
        quit_.cancel()
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing


@contextlib.contextmanager
def _keys(quitting: asyncio.Event) -> Iterator[None]:
    """Sets the event at q, Ctrl-C or SIGTERM, so that the terminal is always put back as it was."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, quitting.set)
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def read() -> None:
        if b"q" in os.read(terminal, 64).lower():
            quitting.set()

    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
