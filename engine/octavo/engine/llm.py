"""The engine for a script or a notebook: prompts in, completions out, a progress bar meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from octavo.engine.chat import ChatMessage
from octavo.engine.config import EngineConfig
from octavo.engine.constraints import ConstraintCompiler
from octavo.engine.errors import InvalidRequest, Violation
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.outputs import Outputs
from octavo.engine.params import SamplingParams
from octavo.engine.progress import GenerationProgress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from octavo.engine.info import ModelInfo
    from octavo.engine.output import Delta, FinishReason, TokenLogprobs, Usage
    from octavo.engine.sequence import Sequence as EngineSequence

DEFAULT_PARAMS = SamplingParams()


@dataclass(frozen=True, slots=True)
class Completion:
    """One output of one prompt. `logprobs` has an entry per token if the parameters asked for them.

    index, reasoning, prompt_logprobs, score: as in `Delta`. usage: of all outputs of the prompt together.
    """

    prompt_token_ids: tuple[int, ...]
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()
    index: int = 0
    reasoning: str = ""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    score: float | None = None


class LLM:
    """Loads a model and generates for lists of prompts, all batched together.

    >>> llm = LLM("smollm2")
    >>> [answer] = llm.chat([[{"role": "user", "content": "Why is the sky blue?"}]])
    >>> print(answer.text)

    `settings` are the fields of `EngineConfig`. Raises ModelError and ConfigError.
    """

    def __init__(self, model: str = "smollm2", **settings: Any) -> None:
        config = EngineConfig(model=model, **settings)
        files = open_model(model, config.revision)
        self._engine = load_engine(files, config)
        self.tokenizer = files.tokenizer()
        self._constraints = ConstraintCompiler(self.tokenizer, self._engine.model)

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    def generate(
        self,
        prompts: str | Sequence[str | Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] = DEFAULT_PARAMS,
        *,
        progress: bool = True,
    ) -> list[Completion]:
        """Completions of texts or token ids, in the order of the prompts; one text is a list of one.

        A prompt whose parameters ask for n outputs has n completions, one after another.

        params: for all prompts, or one for each.
        progress: show a bar once it takes more than two seconds.
        Raises InvalidRequest, before anything is computed, naming the prompt as in `prompts[2].temperature`.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts):
            raise InvalidRequest(
                Violation("params", len(each), f"must be one, or one for each of {len(prompts)} prompts")
            )
        tokens = [self.tokenizer.encode(p) if isinstance(p, str) else list(p) for p in prompts]
        return self._run(tokens, each, progress)

    def chat(
        self,
        conversations: Sequence[Sequence[ChatMessage | Mapping[str, str]]],
        params: SamplingParams | Sequence[SamplingParams] = DEFAULT_PARAMS,
        *,
        progress: bool = True,
    ) -> list[Completion]:
        """The assistant's next message for each conversation, through the model's own chat template."""
        template = self.tokenizer.chat_template
        if template is None:
            raise InvalidRequest(Violation("conversations", "", f"{self.model.name} has no chat template"))
        texts = [template.render([_message(message) for message in messages]) for messages in conversations]
        prompts = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return self.generate(prompts, params, progress=progress)

    def _run(
        self, prompts: list[list[int]], params: list[SamplingParams], progress: bool
    ) -> list[Completion]:
        sequences = self._sequences(prompts, params)
        outputs = {sequence: Outputs(self, sequence, self.tokenizer) for sequence in sequences}
        deltas: dict[EngineSequence, list[Delta]] = {sequence: [] for sequence in sequences}
        for sequence in sequences:
            self._engine.add(sequence)
        with GenerationProgress(sum(param.n for param in params), shown=progress) as bar:
            try:
                while self._engine.has_work:
                    new_tokens = self._engine.step()
                    for new in new_tokens:
                        outputs[new.sequence.request.first].receive(new)
                    ended = 0
                    for first in dict.fromkeys(new.sequence.request.first for new in new_tokens):
                        while (delta := outputs[first].take()) is not None:
                            deltas[first].append(delta)
                            ended += delta.finish_reason is not None
                    bar.advance(ended, len(new_tokens))
            except BaseException:
                for sequence in sequences:
                    self._engine.cancel(sequence)
                raise
        return [
            completion
            for prompt, sequence in zip(prompts, sequences, strict=True)
            for completion in _completions(prompt, deltas[sequence], outputs[sequence].usage)
        ]

    # What outputs ask for their sequences.

    def resume(self, sequence: EngineSequence) -> None:
        self._engine.resume(sequence)

    def end(self, sequence: EngineSequence, reason: FinishReason, num_output_tokens: int) -> None:
        self._engine.finish(sequence, reason, num_output_tokens)

    def _sequences(self, prompts: list[list[int]], params: list[SamplingParams]) -> list[EngineSequence]:
        sequences: list[EngineSequence] = []
        violations: list[Violation] = []
        for index, (prompt, param) in enumerate(zip(prompts, params, strict=True)):
            try:
                constraints = self._constraints.compile(param)
                sequences.append(self._engine.make_sequence(prompt, param, constraints=constraints))
            except InvalidRequest as error:
                where = f"prompts[{index}]"
                violations += [replace(v, field=f"{where}.{v.field}") for v in error.violations]
        if violations:
            raise InvalidRequest(*violations)
        return sequences


def _message(message: ChatMessage | Mapping[str, str]) -> ChatMessage:
    return message if isinstance(message, ChatMessage) else ChatMessage(message["role"], message["content"])


def _completions(prompt: list[int], deltas: list[Delta], usage: Usage) -> Iterator[Completion]:
    by_index: dict[int, list[Delta]] = {}
    for delta in deltas:
        by_index.setdefault(delta.index, []).append(delta)
    for index in sorted(by_index):
        *_, last = parts = by_index[index]
        assert last.finish_reason is not None
        yield Completion(
            prompt_token_ids=tuple(prompt),
            text="".join(part.text for part in parts),
            token_ids=tuple(chain.from_iterable(part.token_ids for part in parts)),
            finish_reason=last.finish_reason,
            usage=usage,
            logprobs=tuple(chain.from_iterable(part.logprobs for part in parts)),
            index=index,
            reasoning="".join(part.reasoning for part in parts),
            prompt_logprobs=parts[0].prompt_logprobs,
            score=last.score,
        )
