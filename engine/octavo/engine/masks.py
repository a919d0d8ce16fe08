"""Which tokens may be chosen, where not all may: bits, filled while the forward pass runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.structured import MaskFiller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Sequence as Rows

    from octavo.engine.batch import Masks
    from octavo.engine.sequence import Sequence
    from octavo.engine.structured import Matcher


def mask_of(token_ids: Iterable[int], vocab_size: int) -> np.ndarray:
    """The bits of these tokens alone, uint32 [ceil(vocab_size / 32)]."""
    words = np.zeros(-(-vocab_size // 32), np.uint32)
    ids = np.fromiter(token_ids, np.int64)
    np.bitwise_or.at(words, ids // 32, np.uint32(1) << (ids % 32).astype(np.uint32))
    return words


class Masking:
    """What `SamplingBatch` wants to know of masks."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._filler: MaskFiller | None = None

    def begin(self, rows: Rows[Sequence]) -> tuple[list[int], Callable[[], Masks] | None]:
        """The rows that have a mask, and where to ask for the masks."""
        fixed: list[tuple[int, np.ndarray]] = []
        grown: list[tuple[int, Matcher]] = []
        opening: list[tuple[int, int]] = []
        for i, sequence in enumerate(rows):
            constraint = sequence.constraint
            if constraint is None:
                continue
            if (only := constraint.closes) is not None:
                fixed.append((i, mask_of([only], self._vocab_size)))
            elif (matcher := constraint.matcher) is not None:
                if (tag := constraint.opens) is not None:
                    opening.append((len(grown), tag))
                grown.append((i, matcher))
            elif constraint.allowed is not None:
                fixed.append((i, constraint.allowed))
        at, masks = [i for i, _ in fixed], [mask for _, mask in fixed]
        if not grown:
            return at, (lambda: np.stack(masks)) if masks else None
        if self._filler is None:
            self._filler = MaskFiller(self._vocab_size)
        fill = self._filler.begin([matcher for _, matcher in grown])

        def filled() -> Masks:
            found = np.vstack([fill(), *masks])
            for row, tag in opening:
                found[row, tag // 32] |= np.uint32(1 << tag % 32)
            return found

        return [i for i, _ in grown] + at, filled
