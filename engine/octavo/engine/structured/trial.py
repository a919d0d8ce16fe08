"""Compiles grammars in a process of its own first, to see whether that is survived.

The library bounds the work of a step, but not all of what compiling can take: a chain of a few thousand
references overflows the stack, an intersection of twenty patterns fills the memory, and either would be the
end of an engine with all its requests. Such a grammar can be 300 bytes long, so that its size says nothing.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

SECONDS = 5.0
MEMORY = 512 * 1024 * 1024
"""Bytes that the process may allocate."""
STACK = 2 * 1024 * 1024
"""Bytes. Threads that compile in earnest have 8 MiB or more."""
ANSWER = b"\n"

log = logging.getLogger(__name__)


class Trial:
    """The process: started when it is first needed, and again when it has died. Safe to use from threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def survives(self, serialized: str) -> bool:
        """Whether this grammar, in the library's notation, can be compiled, or refused, with modest means."""
        with self._lock:
            began, used = time.monotonic(), self._process is not None
            survived = self._ask(serialized)
            if not survived and used and time.monotonic() - began < SECONDS:
                survived = self._ask(serialized)  # it may have died of what came before
            return survived

    def _ask(self, serialized: str) -> bool:
        try:
            process = self._process or self._start()
        except OSError as error:
            log.warning("No process can be started to try out a grammar; it is compiled untried: %s", error)
            return True
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(SECONDS, process.kill)
        late.start()
        try:
            process.stdin.write(serialized.encode() + b"\n")
            process.stdin.flush()
            survived = process.stdout.readline() == ANSWER
        except BrokenPipeError:
            survived = False
        finally:
            late.cancel()
        if not survived:
            self._process = None
            _stop(process)
        return survived

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        weakref.finalize(self, _stop, self._process)
        return self._process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what it was told last may not have reached it
                pipe.close()
    process.wait()


def main() -> None:
    """The process: a grammar a line in, an empty line out for each that is survived."""
    with suppress(ImportError, OSError, ValueError):  # not every system has these limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with suppress(OSError):  # where memory is short all the same, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.stack_size(STACK)
    for line in sys.stdin:
        attempt = threading.Thread(target=_attempt, args=(line,))
        attempt.start()
        attempt.join()
        sys.stdout.buffer.write(ANSWER)
        sys.stdout.buffer.flush()


def _attempt(serialized: str) -> None:
    from llguidance import LLMatcher, LLTokenizer

    LLMatcher(LLTokenizer("byte"), serialized, log_level=0).compute_bitmask()


if __name__ == "__main__":
    main()
