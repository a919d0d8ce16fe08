"""Token ids to text as they come: whole characters only, and never a part of a stop string."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Protocol

from octavo.engine.token_bytes import BYTE_TOKEN, byte_level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo.engine.tokenizer import Tokenizer


class Detokenizer:
    """The text of one output. What `push` and `flush` return, joined, is `tokenizer.decode` of all ids.

    With stop strings it is that text up to the first of them, which is left out, or with `include_stop`
    ends it. The first is the one that the earliest token completes; of several that one token completes the
    one that begins first, and of those that begin together the shortest.

    stopped: a stop string was found; what is pushed after that is ignored.
    num_tokens: token ids consumed; when stopped, the last of them is the one that completed the stop string.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...] = (),
        skip_special_tokens: bool = True,
        include_stop: bool = False,
    ) -> None:
        self.stopped = False
        self.num_tokens = 0
        self._stop = stop
        self._longest_held = max(map(len, stop), default=1) - 1
        self._include_stop = include_stop
        self._held = ""
        self._skips_newlines = False
        self._token_of = tokenizer.backend.id_to_token
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._text: _Text = _ByteLevelText(tokenizer) if tokenizer.is_byte_level else _WindowText(tokenizer)

    def echo(self, token_ids: Sequence[int]) -> str:
        """The text of a prompt, where the output's goes on in the middle of its words and characters.

        Call it before anything else. No stop string ends the prompt, and `num_tokens` does not count it.
        """
        told = [token_id for token_id in token_ids if token_id not in self._skipped]
        return self._text.begin([token_id for token_id in told if self._token_of(token_id) is not None])

    def skip_newlines(self) -> None:
        """Leaves out the newlines that come next, if any do, as if they had not been pushed."""
        self._skips_newlines = True

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is sure now, of these ids and of what was held back before."""
        emitted = []
        for token_id in token_ids:
            if self.stopped:
                break
            self.num_tokens += 1
            token = self._token_of(token_id)
            if token is None or token_id in self._skipped:
                continue
            if text := self._text.push(token_id, token):
                emitted.append(self._accept(text))
        return "".join(emitted)

    def flush(self) -> str:
        """What was held back; an incomplete character becomes U+FFFD. Call it at the end of the text."""
        if self.stopped:
            return ""
        emitted = self._accept(self._text.flush())
        held, self._held = self._held, ""
        return emitted + held

    def _accept(self, text: str) -> str:
        if self._skips_newlines:
            text = text.lstrip("\n")
            self._skips_newlines = not text
        if not self._stop:
            return text
        text = self._held + text
        found = [(start, len(stop)) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            start, length = min(found)
            return text[: start + length * self._include_stop]
        held = self._num_held(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _num_held(self, text: str) -> int:
        """Characters at the end of `text` that may be the beginning of a stop string."""
        for length in range(min(len(text), self._longest_held), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stop):
                return length
        return 0


class _Text(Protocol):
    """Text that no later token can change. Ids that `tokenizer.decode` leaves out never get here."""

    def begin(self, token_ids: list[int]) -> str:
        """As `push` of all of them, before any other, but much faster."""
        ...

    def push(self, token_id: int, token: str) -> str: ...

    def flush(self) -> str: ...


class _ByteLevelText:
    """Byte-level tokens are bytes, so that a UTF-8 decoder is all it takes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes_of = tokenizer.bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def begin(self, token_ids: list[int]) -> str:
        return self._utf8.decode(b"".join(map(self._bytes_of, token_ids)))

    def push(self, token_id: int, token: str) -> str:
        return self._utf8.decode(byte_level(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowText:
    """For decoders that treat a token by its neighbours, as SentencePiece's, which strips the first space.

    Tokens are decoded behind some earlier ones, the context, and only what comes after the context's text is
    new. A run of byte tokens is decoded when it ends: one byte that fits no character spoils the whole run.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._token_of = tokenizer.backend.id_to_token
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []

    def begin(self, token_ids: list[int]) -> str:
        bytes_at = len(token_ids)
        while bytes_at and BYTE_TOKEN.fullmatch(self._token_of(token_ids[bytes_at - 1]) or ""):
            bytes_at -= 1
        self._pending = token_ids[:bytes_at]
        text = self._release()
        self._pending = token_ids[bytes_at:]
        return text

    def push(self, token_id: int, token: str) -> str:
        self._pending.append(token_id)
        return "" if BYTE_TOKEN.fullmatch(token) else self._release()

    def flush(self) -> str:
        return self._release()

    def _release(self) -> str:
        if not self._pending:
            return ""
        text = self._tokenizer.decode(self._context + self._pending, skip_special_tokens=False)
        new = text[len(self._context_text) :]
        alone = self._tokenizer.decode(self._pending, skip_special_tokens=False)
        if alone:
            self._context, self._context_text = self._pending, alone
        else:  # a context without text would leave the next token's space to be stripped
            self._context, self._context_text = self._context + self._pending, text
        self._pending = []
        return new
