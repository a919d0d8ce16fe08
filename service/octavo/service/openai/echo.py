"""The log-probabilities of an echoed prompt: OpenAI has them before those of each output."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from octavo.service.openai.logprobs import UNKNOWN
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from octavo.service.backend import Backend


async def first_token(backend: Backend, request: pb.GenerateRequest) -> pb.TokenLogprobs:
    """The entry of the prompt's first token, for which a server has none: nothing comes before it."""
    prompt = request.prompt
    ids = prompt.token_ids.ids
    if prompt.HasField("text"):
        ids = (await backend.tokenize(pb.TokenizeRequest(model=request.model, text=prompt.text))).token_ids
    answer = await backend.detokenize(
        pb.DetokenizeRequest(model=request.model, token_ids=ids[:1], skip_special_tokens=False)
    )
    token = pb.TokenLogprob(token_id=ids[0], logprob=UNKNOWN, text=answer.text.encode())
    return pb.TokenLogprobs(chosen=token)


async def with_prompt_logprobs(
    deltas: AsyncGenerator[pb.Delta], first: Callable[[], Awaitable[pb.TokenLogprobs]]
) -> AsyncGenerator[pb.Delta]:
    """The same deltas; the first one of each output has the prompt's log-probabilities before its own.

    They come with output 0, so what comes of the others before that is kept until then.
    first: gets the entry of the prompt's first token.
    """
    prompt: list[pb.TokenLogprobs] = []
    early: list[pb.Delta] = []
    begun: set[int] = set()
    async with aclosing(deltas):
        async for delta in deltas:
            if not prompt and delta.index != 0:
                early.append(delta)
                continue
            if not prompt:
                prompt = [await first(), *delta.prompt_logprobs]
            for each in (delta, *early):
                if each.index not in begun:
                    begun.add(each.index)
                    own = list(each.logprobs)
                    del each.logprobs[:]
                    each.logprobs.extend((*prompt, *own))
                yield each
            early.clear()
