"""The other ranks' processes, as rank 0 has them: started once, given one model after another."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.engine.errors import ConfigError, ModelError, RankLost
from octavo.engine.parallel.exchange import Exchange, create, is_possible
from octavo.engine.parallel.group import Group
from octavo.engine.parallel.watch import Watch
from octavo.engine.parallel.wire import Answer, Order, receive, send

if TYPE_CHECKING:
    from octavo.engine.config import EngineConfig

PATIENCE = 4.0
"""Seconds that rank 0 waits for another one in the middle of a step, where all have the same to do."""


class Ranks:
    """Ranks 1 to `size` - 1. For one thread; they end with this object or with its process.

    watch: tells of lost ranks. After a loss everything here raises RankLost.
    """

    def __init__(self, size: int) -> None:
        memory = create(size)
        self._exchange = Exchange(memory.fileno(), 0, size, PATIENCE)
        self._size = size
        self._folder = tempfile.TemporaryDirectory(prefix="octavo-ranks-")
        self._num_models = 0
        self._connections: dict[int, socket.socket] = {}
        processes: dict[int, subprocess.Popen[bytes]] = {}
        lives: dict[int, socket.socket] = {}
        for rank in range(1, size):
            self._connections[rank], connection = socket.socketpair()
            lives[rank], life = socket.socketpair()
            with connection, life:
                files = [connection.fileno(), life.fileno(), memory.fileno()]
                processes[rank] = subprocess.Popen(
                    # -P: what lies in the working directory is nothing to import.
                    [sys.executable, "-P", "-m", "octavo.engine.parallel.rank",
                     *map(str, (rank, size, *files))],
                    pass_fds=files,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )  # fmt: skip
        memory.close()
        self.watch = Watch(processes, lives, self._exchange)
        self.close = weakref.finalize(self, _end, self.watch, self._connections, self._folder)
        """Ends them."""

    @property
    def process_ids(self) -> list[int]:
        """Of ranks 1 and up."""
        return self.watch.process_ids

    def load(self, path: Path, config: EngineConfig, max_model_len: int) -> Group:
        """Has all ranks load a model, as `loaded` tells once they have. What rank 0 is in their group."""
        self.watch.judges_silence = False
        self._num_models += 1
        rendezvous = Path(self._folder.name) / str(self._num_models)
        settings = dataclasses.asdict(dataclasses.replace(config, model=str(path), revision=None))
        is_ordered = is_possible()
        order = {
            "settings": settings,
            "max_model_len": max_model_len,
            "is_ordered": is_ordered,
            "rendezvous": str(rendezvous),
        }
        self._tell(Order.LOAD, json.dumps(order).encode())
        return Group(0, self._size, self._exchange, is_ordered, rendezvous)

    def loaded(self) -> list[dict[str, Any]]:
        """Waits for it; what each tells: `block_bytes` and `free_memory`. Raises any one's ConfigError or
        ModelError."""
        answers = self._answers()
        self.watch.judges_silence = True
        return answers

    def allocate(self, num_blocks: int) -> None:
        """As `Runner.allocate` does; `allocated` waits for it."""
        self._tell(Order.ALLOCATE, num_blocks.to_bytes(8, "little"))

    def allocated(self) -> None:
        self._answers()

    def run(self, batch: bytes) -> None:
        """Has all ranks compute a batch of `wire.encode`."""
        self._tell(Order.RUN, batch)

    def _tell(self, order: Order, content: bytes) -> None:
        if self.watch.lost is not None:
            raise self.watch.lost
        try:
            for connection in self._connections.values():
                send(connection, order, content)
        except OSError as error:
            raise self._loss(error) from error

    def _answers(self) -> list[dict[str, Any]]:
        try:
            answers = [receive(connection) for connection in self._connections.values()]
        except (EOFError, OSError) as error:
            raise self._loss(error) from error
        contents: list[dict[str, Any]] = [json.loads(content) for _, content in answers]
        for (kind, _), content in zip(answers, contents, strict=True):
            if kind == Answer.REFUSED:
                kinds = {error.__name__: error for error in (ConfigError, ModelError)}
                raise kinds[content["kind"]](content["message"])
        return contents

    def _loss(self, error: Exception) -> RankLost:
        return self.watch.reason() or RankLost(f"a rank has closed its connection: {error!r}")


def _end(
    watch: Watch, connections: dict[int, socket.socket], folder: tempfile.TemporaryDirectory[str]
) -> None:
    for connection in connections.values():
        connection.close()
    watch.end()
    folder.cleanup()
