"""From configuration to a speculator, with everything checked that could not work."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from octavo.engine.config import Speculation
from octavo.engine.errors import ConfigError
from octavo.engine.models.source import open_model
from octavo.engine.models.spec import DynamicScaling
from octavo.engine.runners.build import build_runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.config import EngineConfig
    from octavo.engine.models.files import ModelFiles
    from octavo.engine.speculation.draft_model import DraftModelProposer
    from octavo.engine.speculation.proposer import Proposer
    from octavo.engine.speculation.speculator import Speculator

MOST_GUESSES = 64


def build_speculator(
    config: EngineConfig,
    target_files: ModelFiles,
    max_model_len: int,
    on_weight: Callable[[str], None] = lambda name: None,
) -> Speculator | None:
    """What guesses tokens for the target, with the draft model's weights loaded if there is one; None
    where nothing is to be guessed.

    max_model_len: of the target's sequences. on_weight: hears of each of the draft model's weights.
    Raises ConfigError, and ModelError for a draft model that cannot be loaded.
    """
    check_settings(config)
    if config.speculation == "off":
        return None
    from octavo.engine.speculation.ngram import NgramProposer
    from octavo.engine.speculation.speculator import Speculator

    proposer: Proposer = (
        NgramProposer()
        if config.draft_model is None
        else _draft_model(config, config.draft_model, target_files, max_model_len, on_weight)
    )
    return Speculator(proposer, config.num_speculative_tokens)


def check_settings(config: EngineConfig) -> None:
    """Raises ConfigError for settings of speculation that break a rule or clash."""
    if config.speculation not in get_args(Speculation):
        kinds = ", ".join(get_args(Speculation))
        raise ConfigError(f"speculation: must be one of {kinds} (got {config.speculation!r})")
    most = config.num_speculative_tokens
    if not 1 <= most <= MOST_GUESSES:
        raise ConfigError(f"num_speculative_tokens: must be in [1, {MOST_GUESSES}] (got {most})")
    if config.speculation == "draft" and not config.draft_model:
        raise ConfigError(f"draft_model: must be set for speculation=draft (got {config.draft_model!r})")
    if config.speculation != "draft" and config.draft_model is not None:
        raise ConfigError(
            f"draft_model: must not be set without speculation=draft (got {config.draft_model!r})"
        )


def _draft_model(
    config: EngineConfig,
    model: str,
    target_files: ModelFiles,
    max_model_len: int,
    on_weight: Callable[[str], None],
) -> DraftModelProposer:
    from octavo.engine.speculation.draft_model import DraftModelProposer

    files = open_model(model)
    check_vocabularies(files, target_files)
    extensible = isinstance(files.spec.rope.scaling, DynamicScaling)
    length = max_model_len if extensible else min(max_model_len, files.spec.max_position)
    # Small enough for one rank; that is done sooner than the ranks could meet.
    alone = replace(config, model=model, revision=None, tensor_parallel_size=1)
    runner = build_runner(files, alone, length, on_weight)
    return DraftModelProposer(
        runner,
        max_model_len=length,
        vocab_size=min(files.spec.vocab_size, target_files.spec.vocab_size),
        budget=config.max_num_batched_tokens,
    )


def check_vocabularies(draft: ModelFiles, target: ModelFiles) -> None:
    """Raises ConfigError where a token id means different things to the two models. Sizes may differ, by
    padding."""
    ours = target.tokenizer().backend.get_vocab(with_added_tokens=True)
    theirs = draft.tokenizer().backend.get_vocab(with_added_tokens=True)
    different = sorted(dict(ours.items() ^ theirs.items()))
    if different:
        token = different[0]
        raise ConfigError(
            f"draft_model: must have the same vocabulary as {target.name}; {len(different)} tokens "
            f"differ: {token!r} is {theirs.get(token, 'missing')}, not {ours.get(token, 'missing')} "
            f"(got {draft.name!r})"
        )
