"""POST /v1/completions and /v1/chat/completions: a request, its submissions, and the answer."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import aclosing
from typing import TYPE_CHECKING

from opentelemetry import trace

from octavo.engine import OctavoError
from octavo.service.backend import Origin
from octavo.service.openai.answers import CHAT, COMPLETION, Answer, ChoiceWriter, CollectedChoice, Shape
from octavo.service.openai.door import context_of
from octavo.service.openai.echo import first_token, with_prompt_logprobs
from octavo.service.openai.endpoint import while_connected
from octavo.service.openai.errors import Refused, refusal
from octavo.service.openai.parsing import parse
from octavo.service.openai.requests import ChatCompletionRequest, CompletionRequest
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from octavo.service.backend import Backend
    from octavo.service.openai.exchange import Exchange
    from octavo.service.openai.requests import CompletionParameters

    Take = Callable[[int, pb.Delta], Awaitable[None]]

LARGE = 64 * 1024
"""Bytes of a body that is read in a thread: the streams of others go on meanwhile."""


class Completions:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def complete(self, exchange: Exchange) -> None:
        await self._answer(exchange, CompletionRequest, COMPLETION)

    async def chat(self, exchange: Exchange) -> None:
        await self._answer(exchange, ChatCompletionRequest, CHAT)

    async def _answer(self, exchange: Exchange, kind: type[CompletionParameters], shape: Shape) -> None:
        body = await exchange.body()
        if len(body) < LARGE:
            request = parse(kind, body)
        else:
            request = await asyncio.to_thread(parse, kind, body)
        await while_connected(exchange, self._serve(exchange, request, shape))

    async def _serve(self, exchange: Exchange, request: CompletionParameters, shape: Shape) -> None:
        answer = Answer(
            shape,
            request.model or (await self._backend.model("")).name,
            logprobs=request.num_logprobs is not None,
            prompt_logprobs=request.prompt_logprobs is not None,
            token_ids=bool(request.return_token_ids),
            reasoning=request.include_reasoning is not False,
            usage=bool(request.options.include_usage),
            continuous_usage=bool(request.options.continuous_usage_stats),
        )
        trace.get_current_span().set_attribute("gen_ai.response.id", shape.prefix + answer.id)
        session = exchange.headers.get("x-session-id") or request.session
        origin = Origin(session, context_of(exchange.headers))
        if request.stream:
            await self._stream(exchange, request, origin, answer)
        else:
            await self._collect(exchange, request, origin, answer)

    async def _collect(
        self, exchange: Exchange, request: CompletionParameters, origin: Origin, answer: Answer
    ) -> None:
        choices: dict[int, CollectedChoice] = defaultdict(lambda: CollectedChoice(answer))

        async def take(index: int, delta: pb.Delta) -> None:
            choices[index].add(delta)

        usages = await self._run(request, request.submissions(), origin, take)
        await exchange.respond(answer.whole(choices, usages))

    async def _stream(
        self, exchange: Exchange, request: CompletionParameters, origin: Origin, answer: Answer
    ) -> None:
        """The stream begins with the first delta: what fails before that has a status of its own."""
        submissions = request.submissions()
        writers: dict[int, ChoiceWriter] = {}
        write = exchange.write if len(submissions) == 1 else _in_turn(exchange.write)

        async def take(index: int, delta: pb.Delta) -> None:
            writer = writers.get(index)
            if writer is None:
                writer = writers[index] = ChoiceWriter(answer, index)
            if events := writer.events(delta):
                # Returns when the client has room again. Until then no delta is taken: its sequence waits.
                await write(events)

        usages = await self._run(request, submissions, origin, take)
        await exchange.end(answer.last_event(usages))

    async def _run(
        self,
        request: CompletionParameters,
        submissions: Sequence[pb.GenerateRequest],
        origin: Origin,
        take: Take,
    ) -> list[pb.Usage]:
        """Submits all at once; what each has used. If one fails, the others are cancelled."""
        if len(submissions) == 1:
            return [await self._run_one(request, 0, submissions[0], origin, take)]
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._run_one(request, i, submission, origin, take))
                    for i, submission in enumerate(submissions)
                ]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in running]

    async def _run_one(
        self,
        request: CompletionParameters,
        index: int,
        submission: pb.GenerateRequest,
        origin: Origin,
        take: Take,
    ) -> pb.Usage:
        deltas = self._backend.generate(submission, origin)
        if request.echoes_logprobs:
            deltas = with_prompt_logprobs(deltas, lambda: first_token(self._backend, submission))
        first_choice = index * request.num_choices
        usage = pb.Usage()
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    await take(first_choice + delta.index, delta)
                    usage = delta.usage
        except OctavoError as error:
            raise Refused(refusal(error, lambda field: request.parameter(field, index))) from error
        return usage


def _in_turn(write: Callable[[str], Awaitable[None]]) -> Callable[[str], Awaitable[None]]:
    """For several writers of one stream: the first to write begins it before another goes on."""
    turn = asyncio.Lock()

    async def write_in_turn(events: str) -> None:
        async with turn:
            await write(events)

    return write_in_turn
