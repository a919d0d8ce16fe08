"""A rank takes its share of the memory for weights, keys and values, and hardly more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavo.engine import SamplingParams
from octavo.engine.models.source import open_model
from octavo.engine.parallel import runner
from octavo.engine.parallel.ranks import Ranks
from tests.conftest import TinyModel

from .conftest import OnRanks

SIZE = 2
KV_BYTES = 32 << 20
# Of many small matrices, as in a real model: while one is packed, it is there twice. So large that the 7 MB
# that oneDNN keeps for its steps, whatever the share, are half of what may be more.
LARGE = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 24, "vocab_size": 2048}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, on_ranks: OnRanks) -> Iterator[Ranks]:
    """Ranks that have kept nothing of other models."""
    ranks = Ranks(SIZE)
    monkeypatch.setattr(runner, "Ranks", lambda size: ranks)
    yield ranks
    ranks.close()


def anonymous_bytes(process_id: int) -> int:
    """What a process has in memory that is no file's."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


@pytest.mark.parametrize("name", ["torch", "native"])
def test_a_rank_holds_its_share_of_weights_keys_and_values(
    fresh: Ranks, on_ranks: OnRanks, tiny_model: TinyModel, name: str
) -> None:
    on_ranks(tiny_model("llama"), SIZE, runner=name).generate([[5] * 40], progress=False)
    [process_id] = fresh.process_ids
    before = anonymous_bytes(process_id)

    path = tiny_model("llama", **LARGE)
    llm = on_ranks(path, SIZE, runner=name, kv_cache_memory=str(KV_BYTES), max_num_batched_tokens=64)
    num_tokens = llm.model.num_blocks * llm.model.block_size
    prompts = [[(i + j) % 2000 + 3 for j in range(300)] for i in range(num_tokens // 304)]
    llm.generate(prompts, SamplingParams(max_tokens=4, ignore_eos=True), progress=False)
    grown = anonymous_bytes(process_id) - before

    weights = 4 * sum(map(math.prod, open_model(str(path)).spec.weight_shapes().values()))
    assert weights > 200 << 20
    share = (weights + KV_BYTES) / SIZE
    assert 0.9 * share <= grown <= 1.1 * share, f"{grown / share:.3f} of its share"
