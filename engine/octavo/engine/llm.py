"""The engine for a script or a notebook: prompts in, completions out, a progress bar meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from octavo.engine.assembler import Assembler
from octavo.engine.chat import ChatMessage
from octavo.engine.config import EngineConfig
from octavo.engine.engine import load_engine
from octavo.engine.errors import InvalidRequest, Violation
from octavo.engine.models.source import open_model
from octavo.engine.output import FinishReason, TokenLogprobs, Usage
from octavo.engine.params import SamplingParams
from octavo.engine.progress import GenerationProgress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from octavo.engine.engine import NewToken
    from octavo.engine.info import ModelInfo
    from octavo.engine.sequence import Sequence as EngineSequence

DEFAULT_PARAMS = SamplingParams()


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of one prompt. `logprobs` has an entry per token if the parameters asked for them."""

    prompt_token_ids: tuple[int, ...]
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()


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
        outputs = {sequence: Assembler(sequence, self.tokenizer) for sequence in sequences}
        for sequence in sequences:
            self._engine.add(sequence)
        with GenerationProgress(len(sequences), shown=progress) as bar:
            try:
                while self._engine.has_work:
                    new_tokens = self._engine.step()
                    ended = sum(self._take(outputs[new.sequence], new) for new in new_tokens)
                    bar.advance(ended, len(new_tokens))
            except BaseException:
                for sequence in sequences:
                    self._engine.finish(sequence, FinishReason.CANCELLED)
                raise
        return [
            _completion(prompt, outputs[sequence])
            for prompt, sequence in zip(prompts, sequences, strict=True)
        ]

    def _take(self, output: Assembler, new: NewToken) -> bool:
        """Adds a token to its output; whether it was the last."""
        output.take([new])
        if output.finish_reason is FinishReason.STOP:
            self._engine.finish(new.sequence, FinishReason.STOP)
        return output.finish_reason is not None

    def _sequences(self, prompts: list[list[int]], params: list[SamplingParams]) -> list[EngineSequence]:
        sequences: list[EngineSequence] = []
        violations: list[Violation] = []
        for index, (prompt, param) in enumerate(zip(prompts, params, strict=True)):
            try:
                sequences.append(self._engine.make_sequence(prompt, param))
            except InvalidRequest as error:
                where = f"prompts[{index}]"
                violations += [replace(v, field=f"{where}.{v.field}") for v in error.violations]
        if violations:
            raise InvalidRequest(*violations)
        return sequences


def _message(message: ChatMessage | Mapping[str, str]) -> ChatMessage:
    return message if isinstance(message, ChatMessage) else ChatMessage(message["role"], message["content"])


def _completion(prompt: list[int], output: Assembler) -> Completion:
    assert output.finish_reason is not None
    return Completion(
        prompt_token_ids=tuple(prompt),
        text=output.text,
        token_ids=tuple(output.token_ids),
        finish_reason=output.finish_reason,
        usage=output.usage,
        logprobs=tuple(output.logprobs),
    )
