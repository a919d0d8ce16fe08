"""Sequences as proposers see them, without an engine around them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from octavo.engine.block_manager import extend_hashes
from octavo.engine.params import SamplingParams
from octavo.engine.sampling_state import SamplingState

GREEDY = SamplingParams(temperature=0)


@dataclass(eq=False)
class Text:
    """As much of a sequence as speculation looks at."""

    token_ids: array[int]
    num_prompt_tokens: int
    sampling: SamplingState
    max_tokens: int = 10**6
    stop_tokens: frozenset[int] = frozenset()
    hashes: list[bytes] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    def extend(self, token_ids: Iterable[int]) -> None:
        self.token_ids.extend(token_ids)
        extend_hashes(self.hashes, self.token_ids)

    def cut(self, length: int) -> None:
        del self.token_ids[length:]
        del self.hashes[length // 16 :]


def text(*prompt: int, params: SamplingParams = GREEDY, seed: int = 0) -> Text:
    made = Text(array("i"), len(prompt), SamplingState(params, seed, len(prompt)))
    made.extend(prompt)
    return made
