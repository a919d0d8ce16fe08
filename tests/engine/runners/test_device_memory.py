"""What a step takes of a device's memory, with a made-up card's allocator: the steps are real."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.config import EngineConfig
from octavo.engine.errors import ConfigError, ModelError
from octavo.engine.models.source import open_model
from octavo.engine.runners.torch import TorchRunner
from octavo.engine.runners.torch import runner as torch_runner
from octavo.engine.runners.torch.device_memory import GIB, largest_batch
from tests.conftest import TinyModel

from .steps import device_of


class Card:
    """See `DeviceMemory`. What a step takes is said beforehand."""

    def __init__(self, free: int, taken: int) -> None:
        self._free, self._taken = free, taken
        self.started = False

    def free(self) -> int:
        return self._free

    def start(self) -> None:
        self.started = True

    def peak(self) -> int:
        assert self.started
        return self._taken


def load(path: Any, card: Card, **settings: Any) -> TorchRunner:
    config = EngineConfig(
        model=str(path),
        device=device_of(settings.get("kernels")),
        runner="torch",
        dtype="float32",
        max_num_batched_tokens=96,
        max_num_seqs=8,
        cuda_graphs="off",
        **settings,
    )
    return TorchRunner(open_model(str(path)), config, 512, memory=card)


def test_the_pool_may_take_what_the_largest_step_leaves(tiny_model: TinyModel, kernels: str) -> None:
    card = Card(3 * GIB, GIB)
    runner = load(tiny_model("llama"), card, kernels=kernels)
    assert card.started
    assert runner.free_memory() == 2 * GIB


def test_a_step_that_leaves_nothing_is_refused_with_what_to_lower(tiny_model: TinyModel) -> None:
    message = (
        r"^max_num_batched_tokens, max_num_seqs: a step of 96 tokens and 8 rows of logits takes 3\.00 GiB "
        r"and leaves nothing .*: 2\.00 GiB are free on cpu beside the weights, 0\.00 GiB; lower one or both$"
    )
    with pytest.raises(ConfigError, match=message):
        load(tiny_model("llama"), Card(2 * GIB, 3 * GIB))


def out_of_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_device_that_runs_out_in_the_largest_step_is_no_traceback(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_runner.Decoder, "logits", out_of_memory)
    message = (
        r"^max_num_batched_tokens, max_num_seqs: a step of 96 tokens .* must fit beside the weights, 0\.00 "
        r"GiB; 2\.00 GiB are free on cpu: lower one or both$"
    )
    with pytest.raises(ConfigError, match=message):
        load(tiny_model("llama"), Card(2 * GIB, 0))


def test_a_device_that_runs_out_while_weights_load_is_none_either(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_runner, "load_weights", out_of_memory)
    with pytest.raises(
        ModelError, match=r"cpu ran out of memory while the weights were loaded: .* are left$"
    ):
        load(tiny_model("llama"), Card(GIB, 0))


@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 200))
def test_the_largest_step_is_as_large_as_the_settings_and_the_context_allow(
    num_seqs: int, more_tokens: int, max_model_len: int
) -> None:
    budget = num_seqs + more_tokens
    config = EngineConfig(max_num_seqs=num_seqs, max_num_batched_tokens=budget)
    batch = largest_batch(config, max_model_len)
    assert len(batch.sampling) == len(batch.query_lens) == num_seqs
    assert len(batch.token_ids) == min(budget, num_seqs * max_model_len) == batch.query_lens.sum()
    assert batch.query_lens.min() >= 1
    assert batch.positions.max() < max_model_len
