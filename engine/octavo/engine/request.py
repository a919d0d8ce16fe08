"""What a client asked for: one output, or several that share the blocks of their prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.engine.beam_search import BeamSearch
    from octavo.engine.output import TokenLogprobs
    from octavo.engine.params import SamplingParams
    from octavo.engine.sequence import Sequence


@dataclass(slots=True, eq=False)
class Request:
    """The sequences of one request, in the order of its outputs.

    The first one computes the prompt. Once its first token can be drawn the others fork its block table, and
    from there on each is scheduled for itself: what they write to, they get a copy of.

    sequences: of a beam search its beams; where outputs are chosen, more than are told.
    shared: whether the prompt is yet to be computed for all of them by the first.
    beams: of a beam search.
    prompt_logprobs: of the prompt's second token and those that follow, as far as they are computed.
    num_prompt_logprobs: how many are wanted.
    """

    params: SamplingParams
    num_prompt_logprobs: int = 0
    beams: BeamSearch | None = None
    shared: bool = False
    sequences: list[Sequence] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)

    @property
    def first(self) -> Sequence:
        return self.sequences[0]

    def takers(self, sequence: Sequence) -> list[Sequence]:
        """Those that draw a token from a sequence's logits: itself, or at first all from the first one's."""
        return self.sequences if self.shared and self.beams is None else [sequence]

    @property
    def lacks_prompt_logprobs(self) -> bool:
        return len(self.prompt_logprobs) < self.num_prompt_logprobs
