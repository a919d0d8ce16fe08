"""Engines on the demo model and on tiny ones, and Transformers beside them as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from octavo.engine.config import BLOCK_SIZE, EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams
from tests.conftest import uncounted

ROOT = Path(__file__).parents[2]

QUESTIONS = [
    "Why is the sky blue?",
    "Once upon a time",
    "def fibonacci(n):",
    "Paris is the capital of",
    "Die Hauptstadt von Deutschland ist",
    "List three uses of a paper clip, then say which one is the strangest and why.",
    "1, 1, 2, 3, 5, 8, 13,",
    "Translate to French: The cat sleeps on the warm window sill while it rains outside.",
    "SELECT name, age FROM people WHERE",
    "🙂 What does this emoji mean? Answer for somebody who has never seen one.",
    "Dear Sir or Madam,\n\nI am writing to you because the parcel that I ordered in March has still not",
    "Explain in one paragraph how a refrigerator moves heat from a cold place to a warm one, and why that "
    "does not contradict the second law of thermodynamics. Use no formulas.",
]
EXCERPT_LENGTHS = [120, 180, 256, 300, 450, 700, 1000, 1450]
"""Tokens of the licence that the long prompts ask about."""


@contextmanager
def gguf_read_once() -> Iterator[None]:
    """Transformers reads a GGUF file for its configuration and again for its weights or its vocabulary, makes
    a table of names for every module, and takes the metadata apart by slices of a memmap, not of an array."""
    memmap = np.memmap
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", cache(gguf.GGUFReader))
        patch.setattr(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
        patch.setattr(np, "memmap", lambda *where, **how: np.asarray(memmap(*where, **how)))
        yield


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Engine:
    return load_engine(
        open_model(str(smollm2_path)),
        EngineConfig(model=str(smollm2_path), dtype="float32", kv_cache_memory="256Mi"),
    )


@pytest.fixture(scope="session")
def real_prompts(smollm2_path: Path) -> list[list[int]]:
    """Twenty prompts of 5 to 1,500 tokens."""
    tokenizer = open_model(str(smollm2_path)).tokenizer()
    licence = tokenizer.encode((ROOT / "LICENSE").read_text())
    ask = tokenizer.encode("What does this licence say about patents?\n\n")
    prompts = [tokenizer.encode(question) for question in QUESTIONS]
    return prompts + [ask + licence[:length] for length in EXCERPT_LENGTHS]


@pytest.fixture
def with_settings(smollm2: Engine) -> Callable[..., Engine]:
    """`with_settings(num_blocks=100, prefix_caching=False)`: a new engine over the same loaded weights."""

    def make(num_blocks: int = 600, **settings: Any) -> Engine:
        return renewed(smollm2, num_blocks, **settings)

    return make


def renewed(engine: Engine, num_blocks: int, **settings: Any) -> Engine:
    """An engine over another one's runner, with a pool and settings of its own. The other one is unusable."""
    engine._runner.allocate(num_blocks)
    context = min(engine.model.max_model_len, num_blocks * BLOCK_SIZE)
    model = replace(engine.model, num_blocks=num_blocks, max_model_len=context)
    return Engine(engine._runner, model, replace(engine._config, **settings))


def run(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams | Sequence[SamplingParams] = SamplingParams(temperature=0),  # noqa: B008
    *,
    together: bool = True,
) -> list[list[int]]:
    """The outputs of all prompts, batched together or one after the other. Invariants are checked every
    step."""
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
    sequences = [engine.make_sequence(prompt, p) for prompt, p in zip(prompts, each, strict=True)]
    for sequence in sequences:
        engine.add(sequence)
        while engine.has_work and not together:
            step(engine)
    while engine.has_work:
        step(engine)
    assert engine.load().held_blocks == 0
    return [s.token_ids[s.num_prompt_tokens :].tolist() for s in sequences]


def step(engine: Engine) -> None:
    engine.step()
    engine.check()


@uncounted()
def transformers_greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    guesses: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """Transformers' own greedy outputs, each prompt by itself, to the end-of-sequence or `num_tokens`.

    guesses: what the outputs may be. Those of a prompt are judged in one pass, and what comes after the first
    that is wrong is decoded: the outputs are the same without them, but take a pass a token.
    """
    import torch

    outputs = []
    for prompt, guess in zip(prompts, guesses or [[]] * len(prompts), strict=True):
        output, ended = _right_ones(model, prompt, guess[:num_tokens])
        if len(output) < num_tokens and not ended:
            ids = torch.tensor([[*prompt, *output]])
            with torch.inference_mode():
                found = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=num_tokens - len(output),
                    pad_token_id=0,
                    use_cache=True,
                )
            output = found[0, len(prompt) :].tolist()
        outputs.append(output)
    return outputs


def _right_ones(model: Any, prompt: Sequence[int], guess: Sequence[int]) -> tuple[list[int], bool]:
    """The guesses before the first one that is not the likeliest token after those before it, and whether the
    last of them ends the sequence: what has been guessed beyond is wrong."""
    import torch

    if not guess:
        return [], False
    ends = np.atleast_1d(model.generation_config.eos_token_id)
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *guess[:-1]]]), logits_to_keep=len(guess)).logits[0]
    right: list[int] = []
    for token, likeliest in zip(guess, logits.argmax(-1).tolist(), strict=True):
        if token != likeliest:
            return right, False
        right.append(token)
        if token in ends:
            return right, True
    return right, False


@uncounted()
def transformers_logits(model: Any, prompt: Sequence[int]) -> np.ndarray:
    """float32 [len(prompt), vocab_size]."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor([prompt])).logits[0].float().numpy()
