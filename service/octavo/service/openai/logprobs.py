"""Log-probabilities: a chat's as a list of objects and a completion's as parallel lists, which is OpenAI's
way; a prompt's as vLLM has them."""

from __future__ import annotations

import codecs
import math
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from octavo.v1 import inference_pb2 as pb

UNKNOWN = math.nan
"""Of a prompt's first token, which follows nothing."""
LEAST = -9999.0
"""What OpenAI tells of a token that cannot be; JSON has no infinity."""


class LogprobShape(Protocol):
    """Of one choice: it is given the tokens in order, in any portions."""

    def of(self, logprobs: Iterable[pb.TokenLogprobs]) -> dict[str, Any]: ...


class ChatLogprobs:
    """A token that is a part of a character has its bytes, and in its text `\\x..` for each."""

    def of(self, logprobs: Iterable[pb.TokenLogprobs]) -> dict[str, Any]:
        content = [
            {**_chat_token(each.chosen), "top_logprobs": [_chat_token(token) for token in each.top]}
            for each in logprobs
        ]
        return {"content": content, "refusal": None}


class CompletionLogprobs:
    """A token that is a part of a character is `bytes:\\x..`, so that no two tokens have the same key.

    text_offset: characters of the choice before the token, counted by the tokens' own texts. A prompt's first
        token has null for all but its text.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def of(self, logprobs: Iterable[pb.TokenLogprobs]) -> dict[str, Any]:
        tokens: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float | None] | None] = []
        offsets: list[int] = []
        for each in logprobs:
            tokens.append(_completion_text(each.chosen))
            if math.isnan(each.chosen.logprob):
                values.append(None)
                tops.append(None)
            else:
                values.append(_finite(each.chosen.logprob))
                # The chosen one stands among the likeliest even if it is not one of them, as OpenAI has it.
                likeliest = {_completion_text(token): _finite(token.logprob) for token in each.top}
                tops.append({**likeliest, tokens[-1]: values[-1]})
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(each.chosen.text))
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def of_prompt(logprobs: Iterable[pb.TokenLogprobs]) -> list[dict[str, Any] | None]:
    """An entry for each token of a prompt: null for the first, else by token id the likeliest and itself.

    rank: 1 for the likeliest; null for a token that is not among them.
    """
    told: list[dict[str, Any] | None] = [None]
    for each in logprobs:
        ranked = {str(token.token_id): _prompt_token(token, rank) for rank, token in enumerate(each.top, 1)}
        own = str(each.chosen.token_id)
        told.append(ranked if own in ranked else {own: _prompt_token(each.chosen, None), **ranked})
    return told


def _prompt_token(token: pb.TokenLogprob, rank: int | None) -> dict[str, Any]:
    text = token.text.decode("utf-8", "replace")
    return {"logprob": _finite(token.logprob), "rank": rank, "decoded_token": text}


def _chat_token(token: pb.TokenLogprob) -> dict[str, Any]:
    text = token.text.decode("utf-8", "backslashreplace")
    return {"token": text, "logprob": _finite(token.logprob), "bytes": list(token.text)}


def _completion_text(token: pb.TokenLogprob) -> str:
    try:
        return token.text.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.text)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else LEAST
