"""The form of an output, for which OpenAI and vLLM have parameters of several kinds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from octavo.engine import InvalidRequest, Violation
from octavo.service.openai.parameters import Only, Strict, Strings, Unsupported, WithoutEffect

if TYPE_CHECKING:
    from collections.abc import Iterable


def _schema_text(value: object) -> object:
    """A JSON Schema as JSON, which it may be already."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict | bool):
        raise PydanticCustomError("schema", "must be a JSON Schema: an object, or its text")
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise PydanticCustomError("schema", "must have finite numbers only") from None


SchemaText = Annotated[str, BeforeValidator(_schema_text)]


class JsonSchema(Strict):
    """`json_schema` of a response_format."""

    json_schema: Annotated[SchemaText, Field(alias="schema")]
    name: Annotated[str | None, WithoutEffect("for the client's own records")] = None
    description: Annotated[str | None, WithoutEffect("for the client's own records")] = None
    strict: Annotated[bool | None, WithoutEffect("a schema is always followed to the letter")] = None


class ResponseFormat(Strict):
    """OpenAI's way to say it."""

    type: str
    json_schema: JsonSchema | None = None

    def forms(self) -> Iterable[Form]:
        at = "response_format"
        match self.type:
            case "text":
                pass
            case "json_object":
                yield Form("json_object", True, f"{at}.type")
            case "json_schema" if self.json_schema is not None:
                yield Form("json_schema", self.json_schema.json_schema, f"{at}.json_schema.schema")
            case "json_schema":
                raise InvalidRequest(Violation(f"{at}.json_schema", None, "is required with this type"))
            case _:
                rule = "must be 'text', 'json_object' or 'json_schema'"
                raise InvalidRequest(Violation(f"{at}.type", self.type, rule))
        if self.json_schema is not None and self.type != "json_schema":
            rule = f"must be left out with type {self.type!r}"
            raise InvalidRequest(Violation(f"{at}.json_schema", "an object", rule))


class StructuredOutputs(Strict):
    """vLLM's way to say it."""

    json_schema: Annotated[SchemaText | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Strings | None = None
    grammar: str | None = None
    disable_any_whitespace: Annotated[object, Only(False)] = None
    disable_additional_properties: Annotated[object, Only(False)] = None
    whitespace_pattern: Unsupported = None
    structural_tag: Unsupported = None

    def forms(self) -> Iterable[Form]:
        yield Form("json_schema", self.json_schema, "structured_outputs.json")
        for name in ("json_object", "regex", "choice", "grammar"):
            yield Form(name, getattr(self, name), f"structured_outputs.{name}")


@dataclass(frozen=True, slots=True)
class Form:
    """A field of the protocol's SamplingParams, its value, and the parameter that says it.

    value: None or False if it asks for no form.
    """

    field: str
    value: Any
    parameter: str


def only_form(forms: Iterable[Form]) -> Form | None:
    """The one that asks for something. InvalidRequest if several do."""
    given = [form for form in forms if form.value not in (None, False)]
    if len(given) > 1:
        first, second = given[:2]
        rule = f"must not be set with {first.parameter}: an output has one form"
        raise InvalidRequest(Violation(second.parameter, second.value, rule))
    return given[0] if given else None
