"""Models that think before they answer, between two tags that are single tokens."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo.engine.tokenizer import Tokenizer

TAGS = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, GLM, MiniMax, SmolLM, Nemotron, and most others
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere Command
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<longcat_think>", "</longcat_think>"),  # LongCat
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("◁think▷", "◁/think▷"),  # Kimi
)
NEWLINES = ("<0x0A>", *("\n" * count for count in range(1, 5)), *("Ċ" * count for count in range(1, 5)))
"""How vocabularies write tokens that are nothing but newlines."""


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """open_id, close_id: the tags.

    newline_ids: tokens that are nothing but newlines.
    marker_ids: the other added tokens, such as those that end a turn. An opening tag in front of one is
        part of an earlier message, which may just be about tags.
    """

    open_id: int
    close_id: int
    newline_ids: frozenset[int] = frozenset()
    marker_ids: frozenset[int] = frozenset()


def think_tags(tokenizer: Tokenizer) -> ThinkTags | None:
    """The tags of a tokenizer's model; None if it has none. `Tokenizer.think_tags` keeps them."""
    id_of = tokenizer.backend.token_to_id
    for opening, closing in TAGS:
        open_id, close_id = id_of(opening), id_of(closing)
        if open_id is not None and close_id is not None:
            break
    else:
        return None
    newlines = [token_id for text in NEWLINES if (token_id := id_of(text)) is not None]
    added = tokenizer.backend.get_added_tokens_decoder()
    markers = {token_id for token_id, token in added.items() if token.content.strip()}
    return ThinkTags(
        open_id,
        close_id,
        newline_ids=frozenset(token for token in newlines if not tokenizer.bytes_of(token).strip(b"\n")),
        marker_ids=frozenset(markers - {open_id, close_id}),
    )


class Thinking:
    """Whether one output is thinking, as its tokens come.

    A prompt that ends inside the tags has begun it, as templates do that end with the opening tag. In the
    output a tag is one only where it closes what is open, or where nothing but newlines stands between it
    and the output's beginning or another tag. Elsewhere it is text: a model may be asked what `<think>`
    means.

    thinking: whether the next token is a thought, or the closing tag.
    num_tokens: of the output's tokens, those that are thoughts; tags are not.
    fresh: whether the next token may be a tag even if it does not close anything.
    after_tag: of the prompt: whether it ends with a tag, or a tag and newlines.
    """

    __slots__ = ("_tags", "after_tag", "fresh", "num_tokens", "thinking")

    def __init__(self, tags: ThinkTags, prompt_token_ids: Sequence[int]) -> None:
        self._tags = tags
        self.thinking = False
        self.num_tokens = 0
        self.fresh = True
        self.after_tag = False
        only_newlines = True
        for token_id in reversed(prompt_token_ids):
            if token_id in (tags.open_id, tags.close_id):
                self.thinking = token_id == tags.open_id
                self.after_tag = only_newlines
                break
            if token_id in tags.marker_ids:
                break
            only_newlines = only_newlines and token_id in tags.newline_ids

    def advance(self, token_id: int) -> bool:
        """Takes the output's next token; whether it is a tag."""
        tags = self._tags
        closes = self.thinking and token_id == tags.close_id
        if closes or (self.fresh and token_id in (tags.open_id, tags.close_id)):
            self.thinking = token_id == tags.open_id
            self.fresh = True
            return True
        self.num_tokens += self.thinking
        self.fresh = self.fresh and token_id in tags.newline_ids
        return False

    def must_close(self, budget: int | None) -> bool:
        """Whether the closing tag has to come now: `budget` tokens are thought, and more would be."""
        return budget is not None and self.thinking and self.num_tokens >= budget

    def fork(self) -> Thinking:
        """The same state, to go on by itself."""
        return copy(self)
