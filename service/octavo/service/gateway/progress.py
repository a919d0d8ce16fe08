"""What the client of one request was told, output by output, and how another pod goes on from there."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    Command = pb.GenerateRequest | pb.Submit | pb.Continue


@dataclass(frozen=True, slots=True)
class Extent:
    """So much of an output: tokens, entries of logprobs, characters of text and of reasoning."""

    tokens: int = 0
    logprobs: int = 0
    text: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, delta: pb.Delta) -> Extent:
        return cls(len(delta.token_ids), len(delta.logprobs), len(delta.text), len(delta.reasoning))

    def __add__(self, other: Extent) -> Extent:
        return Extent(
            self.tokens + other.tokens,
            self.logprobs + other.logprobs,
            self.text + other.text,
            self.reasoning + other.reasoning,
        )

    def beyond(self, other: Extent) -> Extent:
        """What of this is left after the other one."""
        return Extent(
            max(0, self.tokens - other.tokens),
            max(0, self.logprobs - other.logprobs),
            max(0, self.text - other.text),
            max(0, self.reasoning - other.reasoning),
        )

    def cut_from(self, delta: pb.Delta) -> None:
        """Takes this much off the beginning of a delta, or as much as is there."""
        del delta.token_ids[: self.tokens]
        del delta.logprobs[: self.logprobs]
        delta.text = delta.text[self.text :]
        delta.reasoning = delta.reasoning[self.reasoning :]


NOTHING = Extent()


@dataclass(slots=True)
class Output:
    """One output. Its tokens include those that the client brought along, to go on from."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: pb.FinishReason = pb.FINISH_REASON_UNSPECIFIED
    told: Extent = NOTHING
    """What was passed on, as long as the request may have to begin anew."""
    repeated: Extent = NOTHING
    """What of that the present pod will say once more."""


class Progress:
    """Takes note of what pods say, and takes out what the client has heard before.

    A request goes on at another pod with the tokens that were told (`Resumption`), each output for itself.
    It begins anew where a pod could not go on from these: where outputs are told when all have ended, and
    where the prompt's log-probabilities are still owed. Draws are fixed by the seed, so that the new pod says
    the same again, though in other pieces; what the client has of it is not passed on.
    """

    def __init__(self, command: Command) -> None:
        sampling, resume = command.sampling, command.resume
        self.num_outputs = sampling.n if sampling.HasField("n") else 1
        self.moved = False
        """Whether it was at another pod before this one, which the client has heard of."""
        self._ranked = sampling.HasField("best_of") or sampling.beam_width > 0
        # What a pod goes on from has a prompt that nobody computes as a whole again.
        self._owes_prompt = sampling.HasField("prompt_logprobs") and not command.HasField("resume")
        self._cached_prompt_tokens: int | None = None  # as the first pod counted them
        self._outputs: defaultdict[int, Output] = defaultdict(Output)
        self._num_ended = 0
        if self.num_outputs == 1:
            self._outputs[0].token_ids.extend(resume.token_ids)
        for index, told in enumerate(resume.outputs):
            self._outputs[index].token_ids.extend(told.token_ids)
            self._outputs[index].finish_reason = told.finish_reason
            self._num_ended += bool(told.finish_reason)

    @property
    def begun(self) -> bool:
        """Whether the client was told anything."""
        return self._cached_prompt_tokens is not None

    @property
    def ended(self) -> bool:
        """Whether all outputs have."""
        return self._num_ended >= self.num_outputs

    @property
    def num_tokens(self) -> int:
        """Of all outputs together."""
        return sum(len(output.token_ids) for output in self._outputs.values())

    @property
    def token_ids(self) -> list[int]:
        """Of the first output."""
        return self._outputs[0].token_ids

    @property
    def finish_reasons(self) -> list[pb.FinishReason]:
        """Of the outputs that have ended, in their order."""
        ends = [self._outputs[index].finish_reason for index in sorted(self._outputs)]
        return [reason for reason in ends if reason]

    @property
    def running(self) -> list[int]:
        """The outputs that have not ended, of a request that a pod has taken."""
        return [index for index in range(self.num_outputs) if not self._outputs[index].finish_reason]

    def take(self, delta: pb.Delta) -> bool:
        """Takes note of a pod's delta; whether anything in it is to be passed on.

        Once the request has moved the delta is changed: it must fit what the client knows.
        """
        output = self._outputs[delta.index]
        if self.moved and not _cut(output, delta):
            return False
        output.token_ids.extend(delta.token_ids)
        if self._cached_prompt_tokens is None:
            self._cached_prompt_tokens = delta.usage.cached_prompt_tokens
        if self.moved:
            delta.usage.cached_prompt_tokens = self._cached_prompt_tokens
            # A pod that began anew has yet to come to some of what others have told.
            delta.usage.output_tokens = max(delta.usage.output_tokens, self.num_tokens)
        if self._begins_anew:
            output.told += Extent.of(delta)
            self._owes_prompt = self._owes_prompt and delta.index != 0
        if delta.finish_reason:
            output.finish_reason = delta.finish_reason
            self._num_ended += 1
        return True

    def moves(self) -> None:
        """From now on it is another pod that speaks; `resume` says how it begins."""
        self.moved = self.begun
        for output in self._outputs.values():
            output.repeated = output.told if self._begins_anew else NOTHING

    def resume(self, command: Command) -> None:
        """Makes a copy of the client's command go on from where the client is."""
        if not self.moved or self._begins_anew or not self.num_tokens:
            return
        if self.num_outputs == 1:
            command.resume.token_ids[:] = self.token_ids
            return
        del command.resume.outputs[:]
        for index in range(self.num_outputs):
            output = self._outputs[index]
            command.resume.outputs.add(token_ids=output.token_ids, finish_reason=output.finish_reason)

    @property
    def _begins_anew(self) -> bool:
        return self._ranked or self._owes_prompt


def _cut(output: Output, delta: pb.Delta) -> bool:
    """Takes off a delta what was passed on before; whether anything is left."""
    if output.finish_reason:
        return False
    if output.repeated == NOTHING:
        return True
    left = output.repeated.beyond(Extent.of(delta))
    output.repeated.cut_from(delta)
    output.repeated = left
    delta.ClearField("prompt_logprobs")  # they came with the first piece
    return Extent.of(delta) != NOTHING or bool(delta.finish_reason)
