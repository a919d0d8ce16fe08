"""Rank 0's watch over the other ranks' processes: one that ends or says nothing is lost, and all with it."""

from __future__ import annotations

import contextlib
import logging
import select
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from octavo.engine.errors import RankLost

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from octavo.engine.parallel.exchange import Exchange

log = logging.getLogger("octavo")

BEAT = 0.5
"""Seconds between two signs of life of a rank."""
SILENCE = 3.0
"""Seconds without one after which a rank counts as lost."""
LAST_WORDS = 2.0
"""Seconds for a process to end by itself."""


class Watch:
    """A thread beside the one that computes, so that one that waits for a lost rank can be told.

    lost: why no more can be computed; None while all is well. judges_silence: not while a rank loads, when
    imports alone may keep all its threads from running for seconds.
    """

    def __init__(
        self,
        processes: Mapping[int, subprocess.Popen[bytes]],
        lives: Mapping[int, socket.socket],
        exchange: Exchange,
    ) -> None:
        """processes, lives: by rank, the processes and where their signs of life come from."""
        self.lost: RankLost | None = None
        self.judges_silence = False
        self._on_loss: list[Callable[[RankLost], None]] = []
        self._lock = threading.Lock()
        self._found = threading.Event()
        self._processes = processes
        self._lives = lives
        self._exchange = exchange
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)
        self._thread.start()

    @property
    def process_ids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def tell(self, on_loss: Callable[[RankLost], None]) -> None:
        """Has `on_loss` called once a rank is lost, from this thread; at once if that is so already."""
        with self._lock:
            self._on_loss.append(on_loss)
            lost = self.lost
        if lost is not None:
            on_loss(lost)

    def give_up(self, error: BaseException) -> RankLost:
        """Ends what rank 0 has failed in; the loss that it is, or that was its reason."""
        if isinstance(error, RankLost):
            return self._lose(error)
        return self._lose(RankLost(f"rank 0 has left a step: {type(error).__name__}: {error}"))

    def reason(self) -> RankLost | None:
        """Why a rank does not answer any longer, if that is found out soon."""
        self._found.wait(LAST_WORDS)
        return self.lost

    def end(self) -> None:
        """Ends the ranks: their sockets close, which they take for the end of rank 0."""
        if self._ended:
            return
        self._ended = True
        if self._thread is not threading.current_thread():
            self._thread.join()
        for life in self._lives.values():
            life.close()
        deadline = time.monotonic() + LAST_WORDS
        for process in self._processes.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _run(self) -> None:
        ranks = {life.fileno(): rank for rank, life in self._lives.items()}
        poll = select.poll()
        for number in ranks:
            poll.register(number, select.POLLIN)
        heard = dict.fromkeys(self._lives, time.monotonic())
        before = time.monotonic()
        while not self._ended and self.lost is None:
            ready = poll.poll(BEAT * 1000 / 2)
            now = time.monotonic()
            if now - before > 2 * BEAT or not self.judges_silence:
                # Who was stopped itself, as with a machine that slept, cannot say who was silent meanwhile.
                heard = dict.fromkeys(heard, now)
            before = now
            for number, _ in ready:
                rank = ranks[number]
                if self._hears(rank):
                    heard[rank] = now
                elif not self._ended:
                    self._lose(RankLost(f"rank {rank} {self._end_of(rank)}"))
            silent = [rank for rank, last in heard.items() if now - last > SILENCE]
            if silent and self.lost is None:
                self._lose(RankLost(f"rank {silent[0]} has said nothing for {SILENCE:g} s"))

    def _hears(self, rank: int) -> bool:
        """Whether what there is to read of a rank is a sign of life, or else its end."""
        try:
            return bool(self._lives[rank].recv(4096))
        except OSError:
            return False

    def _lose(self, lost: RankLost) -> RankLost:
        with self._lock:
            if self.lost is not None:
                return self.lost
            self.lost = lost
            self._found.set()
            told = list(self._on_loss)
        log.error("a rank of %d is lost: %s", len(self._processes) + 1, lost)
        self._exchange.abandon()
        for process in self._processes.values():
            process.kill()
        for tell in told:
            tell(lost)
        return lost

    def _end_of(self, rank: int) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._processes[rank].wait(LAST_WORDS / 2)
            return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has ended with code {code}"
        return "has closed its connection"
