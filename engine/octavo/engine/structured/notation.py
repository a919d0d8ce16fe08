"""What a request asks for, in the library's notation (llguidance: JSON schema and Lark)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from octavo.engine.params import SamplingParams

Body: TypeAlias = dict[str, Any]
"""One grammar of llguidance's list: `{"json_schema": …}` or `{"lark_grammar": …}`."""

MAX_BYTES = 256 * 1024
"""Longest schema, regular expression or grammar, and most of all choices together, in UTF-8."""

WHITESPACE = r" |\n( {0,32}|\t{0,16})"
"""What may stand between two tokens of JSON, once: all that json.dumps writes with any `indent`.

Any whitespace would do for a parser, but a model that has begun with it may not find an end.
"""

_LITERALS = re.compile(r'"(?:\\.|[^"\\])*"|/(?!/)(?:\\.|[^/\\])+/|(?:#|//)[^\n]*', re.DOTALL)
_SPECIAL_TOKEN = re.compile(r"<[^<>\s]+>")
_ATTRIBUTE = re.compile(r"\b(temperature|stop)\s*=")


class NotationError(ValueError):
    """What was asked for cannot be a grammar; the message goes on from the name of its field."""


def body_of(params: SamplingParams) -> Body:
    """The grammar of the one form that the parameters ask for. Raises NotationError."""
    if params.json_object:
        return _json({"type": "object"})
    if params.json_schema is not None:
        return _json(_parse_schema(_limited(params.json_schema)))
    if params.choice:
        return _choice(params.choice)
    if params.regex is not None:
        return _regex(_limited(params.regex))
    assert params.grammar is not None
    return _lark(_limited(params.grammar))


def _limited(*texts: str) -> str:
    """The first of these texts, if they are not too long together."""
    try:
        size = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError as error:
        raise NotationError("must be text, without lone surrogates") from error
    if size > MAX_BYTES:
        raise NotationError(f"must have at most {MAX_BYTES // 1024} KiB")
    return texts[0]


def _parse_schema(text: str) -> Body:
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise NotationError(f"must be JSON: {error}") from error
    except RecursionError as error:
        raise NotationError("must not be nested that deeply") from error
    if schema is True:
        return {}
    if schema is False:
        raise NotationError("must allow some value, and `false` allows none")
    if not isinstance(schema, dict):
        raise NotationError("must be a JSON object, or `true`")
    if "x-guidance" in schema:
        raise NotationError("must not have x-guidance: how JSON is written is the same for all")
    return schema


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON")


def _json(schema: Body) -> Body:
    return {"json_schema": {**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}}


def _choice(texts: tuple[str, ...]) -> Body:
    """One terminal, which is one automaton: faster than as many rules."""
    _limited(*texts)
    quoted = (json.dumps(text).replace("\x7f", r"\u007f") for text in texts)
    return {"lark_grammar": f"start: CHOICE\nCHOICE: {' | '.join(quoted)}"}


def _regex(pattern: str) -> Body:
    from llguidance import LLMatcher

    found: Body = json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0]
    return {"lark_grammar": found["lark_grammar"]}


def _lark(text: str) -> Body:
    """Refuses what the library would take and the engine could not do."""
    bare = _LITERALS.sub('""', text)
    if found := _SPECIAL_TOKEN.search(bare):
        raise NotationError(
            f"must not have special tokens such as {found[0]}: they are no text. Text goes in quotes"
        )
    if found := _ATTRIBUTE.search(bare):
        raise NotationError(f"must not have the attribute {found[1]}, which is not supported")
    return {"lark_grammar": text}


def serialized(body: Body, before: str = "") -> str:
    """The library's whole input: `before` in Lark's notation, and then the grammar."""
    if not before:
        return json.dumps({"grammars": [body]})
    return json.dumps({"grammars": [{"lark_grammar": f"start: {before} @body"}, {**body, "name": "body"}]})


def reason(message: str) -> str:
    """The library's error in one line, without the excerpts and states that it prints below it."""
    if message.startswith("panic:"):
        return "it is too large or too complex"
    text = message.rpartition("(in regex): ")[2].replace("<non-verbose/>", "")
    text = text.partition(" Enable 'coerce_one_of'")[0]  # an option of the library's
    lines = [line.strip() for line in text.splitlines() if not re.match(r"\s*(\d+ \||\^*$)", line)]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    line = (errors or lines or ["unknown error"])[0]
    return line if len(line) <= 300 else f"{line[:297]}..."
