"""Sums and gathers over shared memory and over torch's own process groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from octavo.engine.parallel.exchange import SLOT_BYTES, Exchange, create
from octavo.engine.parallel.group import Group
from octavo.engine.runners.torch.collectives import Collectives, join

CPU = torch.device("cpu")
Run = Callable[[Callable[[Collectives, int], torch.Tensor]], list[torch.Tensor]]


@pytest.fixture(params=["shared memory, 2", "shared memory, 4", "gloo, 2"])
def ranks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Run, int]]:
    """Runs a function on every rank, each a thread, and how many they are."""
    kind, _, number = request.param.partition(", ")
    size = int(number)
    memory = create(size)

    def group(rank: int) -> Group:
        exchange = Exchange(memory.fileno(), rank, size) if kind == "shared memory" else None
        return Group(rank, size, exchange, rendezvous=tmp_path / "store")

    with ThreadPoolExecutor(size) as pool:
        collectives = list(pool.map(lambda rank: join(group(rank), CPU), range(size)))
        yield (lambda what: list(pool.map(what, collectives, range(size)))), size
    memory.close()


def random(rank: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(rank)).to(dtype)


@pytest.mark.parametrize("shape", [(1, 64), (32, 576), (3, SLOT_BYTES // 4)])
def test_a_sum_is_the_same_on_all_ranks(ranks: tuple[Run, int], shape: tuple[int, int]) -> None:
    run, size = ranks
    found = run(lambda together, rank: together.all_reduce(random(rank, *shape)))
    exact = sum(random(rank, *shape).double() for rank in range(size))
    assert all(torch.equal(each, found[0]) for each in found)
    torch.testing.assert_close(found[0].double(), exact, rtol=0, atol=2e-6)


def test_a_sum_in_bfloat16_is_rounded_once(ranks: tuple[Run, int]) -> None:
    run, size = ranks
    found = run(lambda together, rank: together.all_reduce(random(rank, 5, 64, dtype=torch.bfloat16)))
    exact = sum(random(rank, 5, 64, dtype=torch.bfloat16).float() for rank in range(size))
    assert all(torch.equal(each, exact.bfloat16()) for each in found)


@pytest.mark.parametrize("num_rows", [1, 7])
@pytest.mark.parametrize("width", [8, SLOT_BYTES // 8])
def test_rank_0_gathers_parts_of_unequal_widths(ranks: tuple[Run, int], num_rows: int, width: int) -> None:
    run, size = ranks
    widths = [width + rank % 2 for rank in range(size)]
    found = run(lambda together, rank: together.gather(random(rank, num_rows, widths[rank]), widths))
    expected = torch.cat([random(rank, num_rows, widths[rank]) for rank in range(size)], dim=1)
    assert torch.equal(found[0], expected)


def test_many_operations_in_turn_do_not_meet_each_others_parts(ranks: tuple[Run, int]) -> None:
    run, size = ranks

    def work(together: Collectives, rank: int) -> torch.Tensor:
        total = torch.zeros(4, 16)
        for turn in range(100):
            total += together.all_reduce(torch.full((4, 16), float(turn + rank)))
            together.gather(torch.full((2, 8), float(turn)), [8] * size)
        return total

    each = sum(size * turn + sum(range(size)) for turn in range(100))
    assert all(torch.equal(total, torch.full((4, 16), float(each))) for total in run(work))
