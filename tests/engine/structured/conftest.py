"""Worlds of all kinds of tokenizers."""

from __future__ import annotations

import pytest

from octavo.engine.models.source import open_model
from octavo.engine.tokenizer import Tokenizer
from tests.conftest import TinyModel
from tests.engine.structured.world import World

PIECES = [
    "▁",
    "a",
    "b",
    "c",
    "ab",
    "▁ab",
    "▁a",
    "▁{",
    '{"',
    '":',
    '▁"',
    '",',
    "}",
    "],",
    "1",
    "12",
    "▁1",
    "ye",
]
SENTENCE_PIECE = {
    "model": "llama",
    "tokens": ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES],
    "scores": [0.0] * 259 + [-float(index) for index in range(len(PIECES))],
    "token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
    "bos_token_id": 1,
    "eos_token_id": 2,
    "unknown_token_id": 0,
}


@pytest.fixture(scope="session")
def demo() -> World:
    return World(open_model("smollm2").tokenizer(), eos=(2, 0))


@pytest.fixture(scope="session")
def byte_level(tiny_model: TinyModel) -> World:
    return World(Tokenizer.from_folder(tiny_model("llama")), eos=(2,))


@pytest.fixture(scope="session")
def sentence_piece() -> World:
    metadata = {f"tokenizer.ggml.{key}": value for key, value in SENTENCE_PIECE.items()}
    return World(Tokenizer.from_gguf(metadata, "x.gguf"), eos=(2,))


@pytest.fixture(scope="session", params=["demo", "byte_level", "sentence_piece"])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found
