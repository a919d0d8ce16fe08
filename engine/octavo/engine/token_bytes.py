"""How the two great kinds of vocabulary write the bytes that a token stands for."""

from __future__ import annotations

import re
from functools import lru_cache

BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
"""How SentencePiece writes a byte of a character that it does not know."""

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = sorted(set(range(256)) - set(PRINTABLE))
BYTE_OF_CHARACTER = {chr(byte): byte for byte in PRINTABLE} | {
    chr(256 + index): byte for index, byte in enumerate(OTHERS)
}
"""How byte-level tokens are written, since GPT-2: printable bytes as themselves, others from U+0100 on."""


@lru_cache(1 << 14)  # a text is made of few tokens of a vocabulary, again and again
def byte_level(token: str) -> bytes:
    """The bytes of a byte-level token."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in token])
    except KeyError:  # an added token, written as it is
        return token.encode()


def sentence_piece(token: str) -> bytes:
    """The bytes of a SentencePiece token: `▁` is a space, also where decoding would strip it."""
    if found := BYTE_TOKEN.fullmatch(token):
        return bytes([int(found[1], 16)])
    return token.replace("▁", " ").encode()
