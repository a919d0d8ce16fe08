"""The end of a serving process: the first signal asks for it, the second one takes it."""

from __future__ import annotations

import asyncio
import signal


def first_signal() -> asyncio.Future[signal.Signals]:
    """The first SIGTERM or SIGINT; the second one has its default effect again."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[signal.Signals] = loop.create_future()

    def receive(received: signal.Signals) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        first.set_result(received)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, receive, number)
    return first
