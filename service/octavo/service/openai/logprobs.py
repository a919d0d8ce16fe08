"""Log-probabilities in OpenAI's two shapes: a chat's list of objects, and a completion's parallel lists."""

from __future__ import annotations

import codecs
import math
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from octavo.v1 import inference_pb2 as pb

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

    text_offset: characters of the choice before the token, counted by the tokens' own texts.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def of(self, logprobs: Iterable[pb.TokenLogprobs]) -> dict[str, Any]:
        tokens, values, tops, offsets = [], [], [], []
        for each in logprobs:
            tokens.append(_completion_text(each.chosen))
            values.append(_finite(each.chosen.logprob))
            # The chosen one stands among the likeliest even if it is not one of them, as OpenAI has it.
            likeliest = {_completion_text(token): _finite(token.logprob) for token in each.top}
            tops.append({**likeliest, tokens[-1]: values[-1]})
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(each.chosen.text))
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


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
