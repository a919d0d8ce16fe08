"""Chats as text, against Transformers' apply_chat_template, and what makes a chat invalid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from transformers import PreTrainedTokenizerFast

from octavo.engine.chat import ChatMessage, ChatTemplate
from octavo.engine.errors import InvalidRequest, ModelError
from octavo.engine.models.source import open_model

if TYPE_CHECKING:
    from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [ChatMessage("system", "Be brief."), ChatMessage("user", "Hi")]

TEMPLATES = {
    "chatml": CHATML,
    "llama 2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
        "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}{% for message in rest %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + (system if loop.first else '') }}"
        "{{ message['content'].strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "blocks and loop controls": (
        "{%- set ns = namespace(seen=0) %}\n"
        "{% for message in messages %}\n"
        "    {% if message.role == 'system' %}\n        {% continue %}\n    {% endif %}\n"
        "    {%- set ns.seen = ns.seen + 1 %}\n"
        "{{ ns.seen }}: {{ message.content | trim | upper }}\n"
        "{% endfor %}"
    ),
    "json": "{{ messages | tojson }} {{ dict(a=1) | tojson(indent=2) }} {{ tools is none }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}",
}


@pytest.fixture(scope="session")
def oracle(tiny_model: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(tiny_model("llama") / "tokenizer.json"), **SPECIAL)


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_templates_render_as_in_transformers(
    oracle: PreTrainedTokenizerFast, template: str, add_generation_prompt: bool
) -> None:
    chat = [*CHAT, ChatMessage("assistant", " Hello <b>you</b> "), ChatMessage("user", "Größe?\n")]
    dicts = [{"role": message.role, "content": message.content} for message in chat]
    expected = oracle.apply_chat_template(
        dicts, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
    )

    assert ChatTemplate(template, SPECIAL).render(chat, add_generation_prompt) == expected


def test_the_demo_models_template_adds_its_own_system_message(smollm2_path: Path) -> None:
    template = open_model(str(smollm2_path)).tokenizer().chat_template
    assert template is not None

    assert template.render([ChatMessage("user", "Hi")]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_date_is_there_for_templates_that_show_it() -> None:
    assert len(ChatTemplate("{{ strftime_now('%Y') }}", {}).render(CHAT)) == 4


def test_a_developers_message_is_a_systems_for_templates_that_do_not_know_the_role() -> None:
    chat = [ChatMessage("developer", "Be brief."), ChatMessage("user", "Hi")]

    assert ChatTemplate(CHATML, {}).render(chat) == ChatTemplate(CHATML, {}).render(CHAT)
    aware = ChatTemplate(CHATML + "{# developer #}", {}).render(chat)
    assert aware.startswith("<|im_start|>developer\n")


@pytest.mark.parametrize(
    ("chat", "fields"),
    [
        ([], ["messages"]),
        ([ChatMessage("user", "")], ["messages[0].content"]),
        ([ChatMessage("robot", "Hi")], ["messages[0].role"]),
        ([ChatMessage("user", "Hi"), ChatMessage("system", "Late")], ["messages[1].role"]),
        ([ChatMessage("user", "Hi"), ChatMessage("assistant", "Yes?")], ["messages[1].role"]),
        ([ChatMessage("user", 5)], ["messages[0].content"]),  # type: ignore[arg-type]
        ([ChatMessage("robot", ""), ChatMessage("user", "")], ["messages[0].role", "messages[0].content"]),
    ],
    ids=["empty", "no content", "unknown role", "late system", "last assistant", "no text", "several"],
)
def test_a_malformed_chat_is_refused_field_by_field(chat: list[ChatMessage], fields: list[str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ChatTemplate(CHATML, {}).render(chat)

    assert [violation.field for violation in refused.value.violations][: len(fields)] == fields


def test_an_assistant_may_have_said_nothing() -> None:
    chat = [ChatMessage("user", "Hi"), ChatMessage("assistant", ""), ChatMessage("user", "Well?")]

    assert "<|im_start|>assistant\n<|im_end|>" in ChatTemplate(CHATML, {}).render(chat)


def test_a_template_may_refuse_a_chat_with_its_own_words() -> None:
    chat = [ChatMessage("user", "Hi"), ChatMessage("user", "Are you there?")]

    with pytest.raises(InvalidRequest, match="roles must alternate") as refused:
        ChatTemplate(TEMPLATES["llama 2"], SPECIAL).render(chat)

    assert refused.value.violations[0].field == "messages"


def test_a_broken_template_is_refused_when_it_is_compiled() -> None:
    with pytest.raises(ModelError, match="the model's chat template is broken"):
        ChatTemplate("{% if %}", {}).compile()


def test_a_broken_template_renders_no_chat() -> None:
    with pytest.raises(InvalidRequest, match="the model's chat template is broken"):
        ChatTemplate("{% if %}", {}).render([ChatMessage("user", "Hi")])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    with pytest.raises(InvalidRequest):
        ChatTemplate(attack, {}).render(CHAT)


def test_a_chat_goes_on_after_the_reply_with_its_end_of_turn() -> None:
    template = ChatTemplate(CHATML, {})

    more = template.continuation(CHAT, "Hello!\n", [ChatMessage("user", "Bye")])

    assert more == "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    whole = [*CHAT, ChatMessage("assistant", "Hello!\n"), ChatMessage("user", "Bye")]
    assert template.render(CHAT) + "Hello!\n" + more == template.render(whole)


def test_a_template_that_trims_the_reply_has_no_continuation() -> None:
    trimming = ChatTemplate(CHATML.replace("message['content']", "message['content'] | trim"), {})

    assert trimming.continuation(CHAT, "Hello!\n", [ChatMessage("user", "Bye")]) is None
    assert trimming.continuation(CHAT, "Hello!", [ChatMessage("user", "Bye")]) is not None


def test_a_continuation_must_ask_for_a_reply() -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[3\]\.role"):
        ChatTemplate(CHATML, {}).continuation(CHAT, "Hello!", [ChatMessage("assistant", "And")])
    with pytest.raises(InvalidRequest, match=r"messages\[2\]\.role"):
        ChatTemplate(CHATML, {}).continuation(CHAT, "Hello!", [])
