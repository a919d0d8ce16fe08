"""Endpoints from a list and from DNS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from octavo.engine import ConfigError
from octavo.service.gateway.endpoints.address import host_and_port
from octavo.service.gateway.endpoints.dns import DnsSource, resolve
from octavo.service.gateway.endpoints.source import Route, Source
from octavo.service.gateway.endpoints.static import StaticSource
from tests.gateway.pods import FakePod

Routes = Mapping[str, Route]


async def first(source: Source) -> dict[str, frozenset[str]]:
    routes: Any = source.routes()
    async with asyncio.timeout(5), aclosing(routes):
        return addresses(await anext(routes))


def addresses(routes: Routes) -> dict[str, frozenset[str]]:
    return {model: route.addresses for model, route in routes.items()}


async def named_by_hand(_: frozenset[str]) -> str:
    return "told"


async def test_a_list_may_name_the_model_of_each_pod() -> None:
    source = StaticSource(["a=h1:1", "a=h2:2", "org/b=[::1]:3"])
    assert await first(source) == {"a": frozenset({"h1:1", "h2:2"}), "org/b": frozenset({"[::1]:3"})}


async def test_a_pod_without_a_name_is_asked_for_it() -> None:
    pod = await FakePod("smollm2").start()
    try:
        # The other one never answers.
        assert await first(StaticSource([pod.address, "127.0.0.1:1"])) == {
            "smollm2": frozenset({pod.address, "127.0.0.1:1"})
        }
    finally:
        await pod.die()


async def test_named_pods_are_told_before_nameless_ones_have_answered() -> None:
    assert await first(StaticSource(["a=h1:1", "127.0.0.1:1"])) == {"a": frozenset({"h1:1"})}


@pytest.mark.parametrize(
    "bad", ["", "host", "host:", ":1", "host:0", "host:65536", "::1:50051", "=h:1", "a b:1"]
)
def test_what_is_no_endpoint_is_refused_by_its_text(bad: str) -> None:
    with pytest.raises(ConfigError, match="must be host:port or model=host:port"):
        StaticSource([bad])


def test_a_list_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        StaticSource([])


def test_ipv6_addresses_get_brackets() -> None:
    assert host_and_port("fd00::1", 50051) == "[fd00::1]:50051"
    assert host_and_port("10.0.0.1", 50051) == "10.0.0.1:50051"


async def test_a_name_is_resolved_to_addresses_with_the_port() -> None:
    assert "127.0.0.1:50051" in await resolve("localhost", 50051)


class Resolver:
    """DNS as the test has it: an answer is a set of hosts, or an error."""

    def __init__(self, *answers: set[str] | OSError) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str, port: int) -> frozenset[str]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return frozenset(f"{address}:{port}" for address in answer)


async def take(source: Source, count: int) -> AsyncIterator[dict[str, frozenset[str]]]:
    routes: Any = source.routes()
    async with asyncio.timeout(5), aclosing(routes):
        for _ in range(count):
            yield addresses(await anext(routes))


async def test_a_name_is_looked_up_again_and_changes_are_told() -> None:
    resolver = Resolver({"a"}, {"a"}, {"a", "b"}, {"b"})
    source = DnsSource("pods:1", "m", interval=0, resolve=resolver)
    assert [found["m"] async for found in take(source, 3)] == [{"a:1"}, {"a:1", "b:1"}, {"b:1"}]


async def test_what_was_found_stays_while_dns_fails() -> None:
    resolver = Resolver({"a"}, OSError("no answer"), OSError("no answer"), {"b"})
    source = DnsSource("pods:1", "m", interval=0, resolve=resolver)
    assert [found["m"] async for found in take(source, 2)] == [{"a:1"}, {"b:1"}]


async def test_the_model_is_named_by_the_pods_if_by_nobody_else() -> None:
    source = DnsSource("pods:1", interval=0, resolve=Resolver({"a"}), name_of=named_by_hand)
    assert await first(source) == {"told": frozenset({"a:1"})}


@pytest.mark.parametrize("bad", ["pods", "pods:", ":1", "pods:x", "pods:70000"])
def test_what_is_no_name_with_a_port_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match="must be host:port"):
        DnsSource(bad)
