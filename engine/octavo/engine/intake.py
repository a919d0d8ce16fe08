"""Requests as they come in: every rule that one must keep, and the sequences that it becomes."""

from __future__ import annotations

import secrets
from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING

from octavo.engine.beam_search import BeamSearch
from octavo.engine.block_manager import extend_hashes
from octavo.engine.constraints import NONE
from octavo.engine.errors import InvalidRequest, Violation
from octavo.engine.request import Request
from octavo.engine.sampling_state import SamplingState
from octavo.engine.sequence import Sequence, Status
from octavo.engine.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Tokens

    from octavo.engine.config import EngineConfig
    from octavo.engine.constraints import Constraints
    from octavo.engine.info import ModelInfo
    from octavo.engine.params import SamplingParams
    from octavo.engine.resumption import Resumption


def seed_of(seed: int, index: int) -> int:
    """The seed of one output of a request: the request's own for the first, as if it were the only one."""
    if index == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed}/{index}".encode(), digest_size=8).digest())


class Intake:
    """Makes the sequences of requests. `num_sequences` have been made."""

    def __init__(self, config: EngineConfig, clock: Callable[[], int]) -> None:
        self.num_sequences = 0
        self._config = config
        self._clock = clock

    def sequence(
        self,
        model: ModelInfo,
        prompt: Tokens[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        hold: bool = False,
        unread_limit: int | None = None,
        resume: Resumption | None = None,
        constraints: Constraints = NONE,
    ) -> Sequence:
        """The first sequence of a request; the others are its siblings. See `Engine.make_sequence`."""
        room = model.max_model_len - len(prompt)
        stop_tokens = frozenset((*params.stop_token_ids, *(() if params.ignore_eos else model.eos_token_ids)))
        violations = params.violations(model.vocab_size)
        violations += self._prompt_violations(model, prompt)
        if not -(2**31) <= priority < 2**31:
            violations.append(Violation("priority", priority, "must be a signed 32-bit integer"))
        if not violations:
            violations += self._shape_violations(model, prompt, params, stop_tokens, hold)
        if resume is not None and not violations:
            violations = resume.violations(
                params, stop_tokens=stop_tokens, room=room, hold=hold, vocab_size=model.vocab_size
            )
        if violations:
            raise InvalidRequest(*violations)
        max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        seed = secrets.randbits(64) if params.seed is None else params.seed
        several = params.num_sequences > 1
        request = Request(params, shared=several and resume is None)
        if params.prompt_logprobs is not None and resume is None:
            request.num_prompt_logprobs = len(prompt) - 1
        if params.beam_width:
            request.beams = BeamSearch(params, max_tokens, stop_tokens, model.vocab_size)
        arrived = self._clock()
        for index in range(params.num_sequences):
            told = resume.outputs[index] if several and resume is not None else resume
            resumed = told.token_ids if told is not None else ()
            token_ids = array("i", (*prompt, *resumed))
            sequence = Sequence(
                number=self.num_sequences,
                request=request,
                index=index,
                token_ids=token_ids,
                num_prompt_tokens=len(prompt),
                params=params,
                sampling=SamplingState(
                    params,
                    seed_of(seed, index),
                    len(prompt),
                    stop_tokens=stop_tokens,
                    bad_words=constraints.bad_words,
                    num_candidates=request.beams.num_candidates if request.beams is not None else 0,
                ),
                max_tokens=max_tokens,
                stop_tokens=stop_tokens,
                timeline=Timeline(arrived),
                num_resumed_tokens=len(resumed),
                priority=priority,
                hold=hold,
                unread_limit=None if request.beams is not None else unread_limit,
                num_read_tokens=len(resumed),
                constraint=constraints.of_sequence(params, prompt),
            )
            if sequence.constraint is not None:
                for token_id in resumed:
                    sequence.constraint.accept(token_id)
            if several and told is not None and told.finish_reason is not None:
                sequence.status, sequence.finish_reason = Status.FINISHED, told.finish_reason
            self.num_sequences += 1
            if self._config.prefix_caching:
                extend_hashes(sequence.hashes, sequence.token_ids)
            request.sequences.append(sequence)
        return request.first

    def _prompt_violations(self, model: ModelInfo, prompt: Tokens[int]) -> list[Violation]:
        if not len(prompt):
            return [Violation("prompt", [], "must not be empty")]
        if len(prompt) >= model.max_model_len:
            rule = f"must be shorter than the context of {model.max_model_len} tokens"
            return [Violation("prompt", f"{len(prompt)} tokens", rule)]
        if min(prompt) < 0 or max(prompt) >= model.vocab_size:
            unknown = next(token for token in prompt if not 0 <= token < model.vocab_size)
            return [Violation("prompt", unknown, f"token ids must be in [0, {model.vocab_size})")]
        return []

    def _shape_violations(
        self,
        model: ModelInfo,
        prompt: Tokens[int],
        params: SamplingParams,
        stop_tokens: frozenset[int],
        hold: bool,
    ) -> list[Violation]:
        """Rules about several outputs, and about what they leave of the vocabulary."""
        found: list[Violation] = []
        if hold and (params.num_sequences > 1 or params.beam_width):
            rule = "must not be set for a request of several outputs: which of them would be continued?"
            found.append(Violation("hold", hold, rule))
        if (
            params.allowed_token_ids
            and params.min_tokens
            and stop_tokens.issuperset(params.allowed_token_ids)
        ):
            rule = "must not be set where every one of allowed_token_ids ends the output"
            found.append(Violation("min_tokens", params.min_tokens, rule))
        if not (width := params.beam_width):
            return found
        if width > self._config.max_num_seqs:
            rule = f"must not exceed max_num_seqs, {self._config.max_num_seqs}: beams are computed together"
            found.append(Violation("beam_width", width, rule))
        if (1 + len(stop_tokens)) * width > model.vocab_size:
            found.append(Violation("beam_width", width, "must be smaller: the vocabulary has too few tokens"))
        if params.n > width:
            found.append(Violation("n", params.n, f"must not exceed beam_width, {width}"))
        # Beams wait for each other, so all of them must fit at once, with nothing shared but the prompt.
        size = model.block_size
        longest = len(prompt) + (params.max_tokens or model.max_model_len)
        longest = min(longest, model.max_model_len)
        shared = len(prompt) // size if self._config.prefix_caching else 0
        needed = shared + width * (-(-longest // size) + 1 - shared)
        if needed > model.num_blocks:
            rule = (
                f"is too many for outputs of this length: they may take {needed} KV blocks, and there are "
                f"{model.num_blocks}; lower it, or max_tokens"
            )
            found.append(Violation("beam_width", width, rule))
        return found
