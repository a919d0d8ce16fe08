"""The process of a rank other than 0: does what rank 0 says, and ends when that does.

    python -m octavo.engine.parallel.rank RANK SIZE CONNECTION LIFE MEMORY

The last three are numbers of files that it inherits.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.engine.config import EngineConfig
from octavo.engine.errors import ConfigError, ModelError, RankLost
from octavo.engine.parallel.exchange import Exchange
from octavo.engine.parallel.group import Group
from octavo.engine.parallel.watch import BEAT
from octavo.engine.parallel.wire import Answer, Order, decode, receive, send

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.runners import Runner


def main(arguments: list[str]) -> None:
    rank, size, connection, life, memory = map(int, arguments)
    # A terminal's Ctrl-C reaches all processes, but it is rank 0 that knows when the last request is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=live, args=(socket.socket(fileno=life),), daemon=True).start()
    exchange = Exchange(memory, rank, size)
    try:
        Rank(rank, size, exchange, socket.socket(fileno=connection)).serve()
    except RankLost:
        sys.exit(1)  # rank 0 has told why
    except EOFError:
        pass


def live(life: socket.socket) -> None:
    """Gives signs of life, and ends the process, whatever it does, when rank 0 is gone."""
    while True:
        try:
            life.send(b".")
        except OSError:
            os._exit(1)
        if select.select([life], [], [], BEAT)[0]:
            os._exit(1)


class Rank:
    """One model at a time."""

    def __init__(self, rank: int, size: int, exchange: Exchange, connection: socket.socket) -> None:
        self._rank, self._size, self._exchange = rank, size, exchange
        self._connection = connection
        self._runner: Runner | None = None

    def serve(self) -> None:
        """Until rank 0 is gone, which EOFError tells."""
        while True:
            order, content = receive(self._connection)
            match order:
                case Order.RUN:
                    assert self._runner is not None
                    self._runner.logits(decode(content))
                case Order.LOAD:
                    self._answer(self._load, content)
                case Order.ALLOCATE:
                    self._answer(self._allocate, content)

    def _answer(self, does: Callable[[bytes], dict[str, int]], content: bytes) -> None:
        """What goes wrong in another way than these ends the process, and its log tells how."""
        try:
            told = does(content)
        except (ConfigError, ModelError) as error:
            refusal = {"kind": type(error).__name__, "message": str(error)}
            send(self._connection, Answer.REFUSED, json.dumps(refusal).encode())
        else:
            send(self._connection, Answer.DONE, json.dumps(told).encode())

    def _load(self, content: bytes) -> dict[str, int]:
        from octavo.engine.models.source import open_model
        from octavo.engine.runners.build import build_part

        self._runner = None  # of the model before
        told = json.loads(content)
        config = EngineConfig(**told["settings"])
        rendezvous = Path(told["rendezvous"])
        group = Group(self._rank, self._size, self._exchange, told["is_ordered"], rendezvous)
        self._runner = runner = build_part(
            open_model(config.model), config, told["max_model_len"], lambda name: None, group
        )
        return {"block_bytes": runner.block_bytes, "free_memory": runner.free_memory()}

    def _allocate(self, content: bytes) -> dict[str, int]:
        assert self._runner is not None
        self._runner.allocate(int.from_bytes(content, "little"))
        return {}


if __name__ == "__main__":
    main(sys.argv[1:])
