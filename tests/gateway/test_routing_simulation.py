"""The picker against others, in a small version of benchmarks/routing_simulation.py."""

from __future__ import annotations

from functools import cache

import pytest
from benchmarks.routing_simulation import POLICIES, Hardware, Load, Pod, Request, Result, Setup, simulate

pytestmark = pytest.mark.no_cover  # what it runs of the gateway is counted in the tests of its parts
SMALL = Setup(pods=20, gateways=2, seconds=15, warm_up=40, load=Load(rate=17))


@cache
def small(policy: str) -> Result:
    return simulate(POLICIES[policy], SMALL)


def test_clients_wait_half_as_long_for_the_first_token_as_by_least_requests() -> None:
    ours, theirs = small("octavo"), small("least requests")
    assert ours.percentile(99) < 0.6 * theirs.percentile(99)
    assert ours.percentile(50) < 0.4 * theirs.percentile(50)


def test_sessions_find_their_caches_nearly_as_often_as_if_they_never_moved() -> None:
    ours, fixed = small("octavo"), small("session hash")
    assert ours.cached > 0.85 * fixed.cached
    assert ours.percentile(99) < fixed.percentile(99)


def test_equal_seeds_give_equal_figures() -> None:
    short = Setup(pods=5, seconds=5, warm_up=5)
    assert simulate(POLICIES["octavo"], short) == simulate(POLICIES["octavo"], short)


@pytest.mark.parametrize("blocks", [40, 400])
def test_the_simulated_engine_serves_all_and_gives_every_block_back(blocks: int) -> None:
    pod = Pod(Hardware(blocks=blocks, max_num_seqs=8, token_budget=64))
    requests = [Request(f"s{i % 5}", "", 20 + 37 * i % 200, 1 + 29 * i % 150, 0) for i in range(50)]
    ended = []
    for request in requests:
        pod.queue(request)
    while not pod.idle:
        ended += pod.step()[2]
        assert 0 <= pod.held <= blocks
    assert sorted(map(id, ended)) == sorted(map(id, requests))
    assert all(request.produced == request.output for request in requests)
    assert pod.held == 0
    assert pod.preemptions > 0 or blocks == 400
