"""Masks of allowed tokens, filled while the forward pass runs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from llguidance import LLExecutor

    from octavo.engine.structured.grammar import Matcher

MOST_THREADS = 4


class MaskFiller:
    """Fills masks in threads of its own. The library works without the interpreter's lock.

    vocab_size: of the model; as of the GrammarCompiler that the matchers come from.
    """

    def __init__(self, vocab_size: int) -> None:
        self._words = -(-vocab_size // 32)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="octavo-masks")
        self._library: LLExecutor | None = None

    def begin(self, matchers: Sequence[Matcher]) -> Callable[[], npt.NDArray[np.uint32]]:
        """Begins, and returns at once with what waits for the masks, uint32 [len(matchers), words].

        Bit t % 32 of word t // 32 says whether token t may come next. Until the masks are there nobody else
        may use the matchers, of which none may occur twice.
        """
        return self._thread.submit(self._fill, tuple(matchers)).result

    def close(self) -> None:
        """Ends the thread, after what it has begun."""
        self._thread.shutdown()

    def _fill(self, matchers: tuple[Matcher, ...]) -> npt.NDArray[np.uint32]:
        from llguidance.numpy import fill_next_token_bitmask_par

        masks = np.zeros((len(matchers), self._words), np.uint32)
        asked = []
        for row, matcher in enumerate(matchers):
            only = matcher.only()
            if only is None:
                asked.append((matcher.library, row))
                continue
            for token_id in only:
                masks[row, token_id // 32] |= np.uint32(1 << token_id % 32)
        if asked:
            fill_next_token_bitmask_par(self._executor, asked, masks.view(np.int32))
        for matcher in matchers:
            matcher.check()
        return masks

    @property
    def _executor(self) -> LLExecutor:
        if self._library is None:
            from llguidance import LLExecutor

            self._library = LLExecutor(num_threads=min(MOST_THREADS, os.cpu_count() or 1))
        return self._library
