"""Text to token ids and back, with the tokenizers library, from a model's folder or its GGUF metadata."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from octavo.engine.chat import ChatTemplate
from octavo.engine.errors import ModelError
from octavo.engine.models.config import read_json
from octavo.engine.thinking import ThinkTags, think_tags
from octavo.engine.token_bytes import byte_level, sentence_piece

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import tokenizers

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class Tokenizer:
    """A model's tokenizer and chat template. Safe to use from several threads.

    backend: the tokenizers library's own object. Out of a GGUF file it is built when it is first used.
    special_tokens: texts of the named special tokens, of `bos_token`, `eos_token`, `unk_token` and
        `pad_token` those that the model has.
    special_ids: ids of all special tokens, those that decoding skips.
    chat_template: None for a model without one.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer | Callable[[], tokenizers.Tokenizer],
        special_tokens: Mapping[str, str],
        chat_template: str | None = None,
    ) -> None:
        """backend: or what builds it."""
        self._given = backend
        self._building = threading.Lock()
        self.special_tokens = dict(special_tokens)
        self.chat_template = ChatTemplate(chat_template, self.special_tokens) if chat_template else None
        self._bytes_of: dict[int, bytes] = {}

    @cached_property
    def backend(self) -> tokenizers.Tokenizer:
        with self._building:
            if callable(self._given):
                self._given = self._given()
        self._given.no_truncation()
        self._given.no_padding()
        return self._given

    @cached_property
    def special_ids(self) -> frozenset[int]:
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether tokens are written as GPT-2's are, with a character for each byte."""
        from tokenizers import decoders

        return isinstance(self.backend.decoder, decoders.ByteLevel)

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """From tokenizer.json; through Transformers for a folder that has only older files.

        As in Transformers, tokenizer.json alone says what `encode` surrounds a text with.
        Raises ModelError for a folder without a tokenizer, and where Transformers is needed but missing.
        """
        config = _read_config(folder)
        template = _read_chat_template(folder, config)
        named = {name: _text(config[name]) for name in NAMED_TOKENS if config.get(name)}
        file = folder / "tokenizer.json"
        if not file.is_file():
            return cls(_convert(folder), named, template)
        import tokenizers

        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more precise
            raise ModelError(f"{file}: corrupt tokenizer: {error}") from error
        special = [tokenizers.AddedToken(text, special=True, normalized=False) for text in named.values()]
        backend.add_special_tokens(special)
        return cls(backend, named, template)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], source: str) -> Tokenizer:
        """From a GGUF file's metadata. Raises ModelError for a kind of tokenizer that is not supported."""
        from octavo.engine.models.gguf_tokenizer import build_tokenizer, named_tokens

        named = named_tokens(metadata, source)

        def build() -> tokenizers.Tokenizer:
            try:
                return build_tokenizer(metadata, named)
            except UnicodeDecodeError as error:
                raise ModelError(f"{source}: corrupt tokenizer: {error}") from error

        return cls(build, named, metadata.get("tokenizer.chat_template"))

    @property
    def vocab_size(self) -> int:
        """Token ids that the tokenizer knows; the model may have more, as padding."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._id_of("eos_token")

    @cached_property
    def think_tags(self) -> ThinkTags | None:
        """The tags that the model thinks between, if it has any."""
        return think_tags(self)

    def _id_of(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        found: int | None = None if text is None else self.backend.token_to_id(text)
        return found

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, in which special tokens are recognised by their text.

        add_special_tokens: surround them as the model expects, with a beginning-of-sequence token or so.
            False for text from a chat template, which holds them already.
        """
        ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `token_ids`; bytes that are no UTF-8 become U+FFFD, unknown ids nothing."""
        text: str = self.backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text

    def bytes_of(self, token_id: int) -> bytes:
        """A token's own text, as bytes, for it can be a part of a character; nothing for an unknown id.

        Special tokens are their text. Joined, the bytes of an output's tokens are its text, but for a first
        space that SentencePiece's decoding strips.
        """
        found = self._bytes_of.get(token_id)
        if found is None:
            token = self.backend.id_to_token(token_id)
            if token is None:
                found = b""
            else:
                to_bytes = byte_level if self.is_byte_level else sentence_piece
                found = token.encode() if token_id in self.special_ids else to_bytes(token)
            self._bytes_of[token_id] = found
        return found


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}


def _text(token: str | Mapping[str, Any]) -> str:
    """A special token is written as its text or as an object with its `content`."""
    return token if isinstance(token, str) else str(token["content"])


def _read_chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """From its own file, the newest form, or out of tokenizer_config.json; of several, the default."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    found = config.get("chat_template")
    if (folder / "chat_template.json").is_file():
        found = read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found


def _convert(folder: Path) -> tokenizers.Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ModelError(
            f"{folder}: no tokenizer.json, and only transformers reads older tokenizers; "
            "install it with: pip install transformers sentencepiece"
        ) from error
    try:
        return AutoTokenizer.from_pretrained(folder).backend_tokenizer
    except Exception as error:  # of every class, for every format that it tries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{folder}: no tokenizer that can be used: {reason}") from error
