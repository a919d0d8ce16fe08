"""What writes at random within a form: a tokenizer, a compiler and masks, as an engine would use them."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import numpy as np

from octavo.engine.params import SamplingParams
from octavo.engine.structured import Grammar, GrammarCompiler, MaskFiller, Matcher
from octavo.engine.tokenizer import Tokenizer

PADDING = 45
"""Ids of the model that its tokenizer does not have."""
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "role": {"enum": ["admin", "user", "<|im_end|>"]},
        "friends": {"type": "array", "items": {"$ref": "#/$defs/friend"}, "maxItems": 2},
    },
    "required": ["name", "age", "role"],
    "additionalProperties": False,
    "$defs": {
        "friend": {
            "type": "object",
            "properties": {"code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"}},
            "required": ["code"],
            "additionalProperties": False,
        }
    },
}
CHOICES = (
    "yes",
    "yes, but",
    " no",
    'a "b"\\',
    "line\nline\x7f\x00",
    "<|im_end|>",
    "</s>",
    "né😀",
    "/x/ # y",
    "y" * 300,
)
FORMS: list[dict[str, Any]] = [
    {"json_schema": json.dumps(PERSON)},
    {"regex": r"[a-c]{1,3}(-the same words come here-|x)[0-9]"},
    {"choice": CHOICES},
    {"grammar": 'start: "begin " WORD{1,3} "end"\nWORD: /[a-z]{1,5} /'},
]
"""One of each."""


class World:
    """A tokenizer, and what writes with it. The model ends by any of `eos`, and has ids for nothing."""

    def __init__(self, tokenizer: Tokenizer, eos: tuple[int, ...]) -> None:
        self.tokenizer = tokenizer
        self.eos = eos
        self.vocab_size = tokenizer.vocab_size + PADDING
        self.compiler = GrammarCompiler(tokenizer, self.vocab_size, eos)
        self.filler = MaskFiller(self.vocab_size)
        first = [tokenizer.bytes_of(token)[:1] for token in range(self.vocab_size)]
        self._closes = np.isin(first, [b'"', b"}", b"]"])
        self._ends = np.isin(np.arange(self.vocab_size), eos)

    def compile(self, **params: Any) -> Grammar:
        return self.compiler.compile(SamplingParams(**params))

    def allowed(self, matcher: Matcher) -> list[int]:
        return ids_of(self.filler.begin([matcher])()[0])

    def text(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=False)

    def token(self, letter: str) -> int:
        (found,) = self.tokenizer.encode(letter, add_special_tokens=False)
        return found

    def write(self, grammar: Grammar, chance: Random, *, jump: bool = True, most: int = 400) -> str | None:
        """A whole output of random allowed tokens; None if it did not end. Closes what it opens soon."""
        matcher, written = grammar.matcher(), list[int]()
        while len(written) < most:
            allowed = np.zeros(self.vocab_size, bool)
            allowed[self.allowed(matcher)] = True
            texts, closing = allowed & ~self._ends, allowed & self._closes
            if np.any(allowed & self._ends) and (chance.random() < 0.5 or not texts.any()):
                return self.text(written)
            pick = closing if closing.any() and chance.random() < 0.3 else texts
            token = int(chance.choice(np.flatnonzero(pick)))
            for chosen in (jump and matcher.forced()) or [token]:
                matcher.accept(chosen)
                written.append(chosen)
        return None

    def outputs(self, grammar: Grammar, count: int = 20) -> list[str]:
        """Several whole outputs, half of them with forced tokens all at once."""
        written = [self.write(grammar, Random(seed), jump=seed % 2 == 0) for seed in range(count)]
        ended = [text for text in written if text is not None]
        assert len(ended) > count / 2
        return ended


def ids_of(mask: np.ndarray) -> list[int]:
    """The tokens that a mask, uint32 [words], allows."""
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


def follows(value: Any, schema: dict[str, Any] | bool) -> bool:
    """Whether a value is of a schema, for the keywords that these tests use. `$ref` means PERSON's friend."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        return follows(value, PERSON["$defs"]["friend"])
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    if "type" in schema:
        is_bool = isinstance(value, bool) and schema["type"] in ("integer", "number")
        if is_bool or not isinstance(value, kinds[schema["type"]]):
            return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "anyOf" in schema and not any(follows(value, option) for option in schema["anyOf"]):
        return False
    if isinstance(value, str):
        right = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        return right and re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if isinstance(value, list):
        right = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return right and all(follows(item, schema.get("items", True)) for item in value)
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        return set(schema.get("required", ())) <= set(value) and all(
            follows(item, known.get(name, rest)) for name, item in value.items()
        )
    return True
