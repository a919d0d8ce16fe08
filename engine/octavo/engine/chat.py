"""Chats as text: a model's own template, rendered as Transformers renders it, and the rules of a chat."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from octavo.engine.errors import InvalidRequest, ModelError, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Role = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)
INSTRUCTIONS = ("system", "developer")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: str
    content: str


def violations(messages: Sequence[ChatMessage], add_generation_prompt: bool) -> list[Violation]:
    """Every rule that a chat breaks, field by field."""
    if not messages:
        return [Violation("messages", [], "must have at least one message")]
    found: list[Violation] = []
    for index, message in enumerate(messages):
        role, content = f"messages[{index}].role", f"messages[{index}].content"
        if message.role not in ROLES:
            found.append(Violation(role, message.role, f"must be one of {', '.join(ROLES)}"))
        elif message.role in INSTRUCTIONS and index > 0:
            found.append(Violation(role, message.role, "only the first message may have this role"))
        if not isinstance(message.content, str):
            found.append(Violation(content, message.content, "must be text"))
        elif not message.content and message.role != "assistant":
            found.append(Violation(content, message.content, "must not be empty"))
    if add_generation_prompt and messages[-1].role == "assistant":
        last = f"messages[{len(messages) - 1}].role"
        found.append(Violation(last, "assistant", "the last message must ask for a reply, not be one"))
    return found


class ChatTemplate:
    """A model's Jinja template in a sandbox: it comes from the checkpoint, so it is not trusted."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """special_tokens: variables of the template, such as bos_token."""
        self.source = source
        self._special_tokens = dict(special_tokens)

    def compile(self) -> None:
        """Does now what the first rendering would do: 80 ms. Raises ModelError for a broken template."""
        from jinja2 import TemplateError

        try:
            _ = self._template
        except TemplateError as error:
            raise ModelError(f"the model's chat template is broken: {error}") from error

    @cached_property
    def _template(self) -> Any:
        return _environment().from_string(self.source)

    def render(self, messages: Sequence[ChatMessage], add_generation_prompt: bool = True) -> str:
        """The prompt of a chat, special tokens included: encode it with add_special_tokens=False.

        A developer's message is a system's for templates that don't know the role.
        Raises InvalidRequest for a chat that breaks a rule or that the template refuses, or cannot render
        because it is broken.
        """
        from jinja2 import TemplateError

        if found := violations(messages, add_generation_prompt):
            raise InvalidRequest(*found)
        chat = [{"role": self._role(message.role), "content": message.content} for message in messages]
        try:
            self.compile()
            text: str = self._template.render(
                messages=chat,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except ModelError as error:
            raise InvalidRequest(Violation("messages", "a chat", str(error))) from error
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            roles = [message.role for message in messages]
            rule = f"the model's chat template refuses them: {error}"
            raise InvalidRequest(Violation("messages", roles, rule)) from error
        return text

    def _role(self, role: str) -> str:
        return "system" if role == "developer" and "developer" not in self.source else role

    def continuation(
        self, messages: Sequence[ChatMessage], reply_text: str, new_messages: Sequence[ChatMessage]
    ) -> str | None:
        """The text between a reply and the next one, so that the reply's own tokens can be kept.

        messages: the chat that was answered with `reply_text`, the text without its end-of-turn token.
        new_messages: what is said then. The result starts with the template's end of the reply's turn
        (`<|im_end|>` or so) and ends with the prompt for the next reply.
        None where the template changes what stands before, by trimming the reply or leaving out its
        reasoning: then the whole chat must be rendered anew.
        Raises InvalidRequest as `render` does.
        """
        before = self.render(messages) + reply_text
        whole = self.render([*messages, ChatMessage("assistant", reply_text), *new_messages])
        return whole[len(before) :] if whole.startswith(before) else None


def _environment() -> Any:
    """As Transformers' `_compile_jinja_template` sets it up (utils/chat_template_utils.py)."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks the assistant's tokens for training; here it only shows its body."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    class PlainNamespace(Namespace):
        """Without names that reach into Python's objects."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise TemplateError(f"a namespace may not have {name}")
            super().__setitem__(name, value)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    def strftime_now(layout: str) -> str:
        return datetime.now().strftime(layout)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "namespace": PlainNamespace,
        "dict": lambda *entries, **more: dict(*entries, **more),
    }
    return environment
