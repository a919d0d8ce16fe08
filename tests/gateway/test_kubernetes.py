"""Endpoints from Kubernetes, over a real connection to an API server that fails in all its ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import certifi
import pytest

from octavo.engine import ConfigError
from octavo.service.gateway.endpoints.kubernetes import KubernetesSource, read_model, read_slice
from octavo.service.gateway.endpoints.source import Route
from octavo.service.gateway.kubernetes.access import Access, find_access
from octavo.service.gateway.kubernetes.api import PAGE, Api
from octavo.service.gateway.kubernetes.mirror import Mirror
from tests.gateway.api_server import ApiServer

MODELS = "inferencemodels"
SLICES = "endpointslices"


def model(name: str, created: str = "2026-01-01T00:00:00Z", namespace: str = "ns", **spec: Any) -> Any:
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": created}
    return {"metadata": metadata, "spec": spec}


def pods_of(
    name: str, *hosts: str, part: str = "x", namespace: str = "ns", ready: bool = True, port: str = "grpc"
) -> Any:
    labels = {"kubernetes.io/service-name": f"{name}-pods"}
    return {
        "metadata": {"name": f"{name}-{part}", "namespace": namespace, "labels": labels},
        "ports": [{"name": "http", "port": 8000}, {"name": port, "port": 50051}],
        "endpoints": [{"addresses": [host], "conditions": {"ready": ready}} for host in hosts],
    }


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = await ApiServer().start()
    yield server
    await server.stop()


class Follower:
    """What a source has told last."""

    def __init__(self, source: KubernetesSource) -> None:
        self.source = source
        self.routes: Mapping[str, Route] | None = None

    async def follow(self) -> None:
        routes: Any = self.source.routes()
        async with aclosing(routes):
            async for told in routes:
                self.routes = told

    @property
    def addresses(self) -> dict[str, set[str]]:
        return {name: set(route.addresses) for name, route in (self.routes or {}).items()}


@asynccontextmanager
async def following(api: Api, *namespaces: str) -> AsyncIterator[Follower]:
    follower = Follower(KubernetesSource(api, namespaces, Random(0)))
    task = asyncio.create_task(follower.follow())
    yield follower
    task.cancel()
    await asyncio.wait([task])
    await api.close()


async def until(holds: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)


async def test_models_and_their_pods_are_found_and_followed(server: ApiServer) -> None:
    await server.put(MODELS, model("m"))
    await server.put(SLICES, pods_of("m", "10.0.0.1"))
    async with following(server.api()) as found:
        await until(lambda: found.addresses == {"m": {"10.0.0.1:50051"}})
        await server.put(SLICES, pods_of("m", "10.0.0.1", "10.0.0.2"))
        await until(lambda: found.addresses == {"m": {"10.0.0.1:50051", "10.0.0.2:50051"}})
        await server.put(MODELS, model("other"))
        await until(lambda: found.addresses.get("other") == set())
        await server.delete(MODELS, "ns", "m")
        await until(lambda: found.addresses == {"other": set()})
    assert server.lists == 2


async def test_pods_are_known_whether_they_are_ready_or_not(server: ApiServer) -> None:
    assert read_slice(pods_of("m", "fd00::1", ready=False)).addresses == {"[fd00::1]:50051"}


async def test_a_slice_without_the_port_of_our_name_has_no_pods_of_ours() -> None:
    assert not read_slice(pods_of("m", "10.0.0.1", port="other")).addresses
    assert not read_slice({"metadata": {"name": "s"}, "ports": None, "endpoints": None}).addresses


async def test_a_model_may_have_many_slices(server: ApiServer) -> None:
    await server.put(MODELS, model("m"))
    await server.put(SLICES, pods_of("m", "10.0.0.1", part="a"))
    await server.put(SLICES, pods_of("m", "10.0.0.2", part="b"))
    async with following(server.api()) as found:
        await until(lambda: found.addresses == {"m": {"10.0.0.1:50051", "10.0.0.2:50051"}})


async def test_a_list_of_many_pages_is_read_to_its_end(server: ApiServer) -> None:
    for i in range(PAGE + 10):
        await server.put(MODELS, model(f"m{i}"))
    async with following(server.api()) as found:
        await until(lambda: len(found.addresses) == PAGE + 10)


async def test_an_event_may_be_larger_than_any_buffer(server: ApiServer) -> None:
    await server.put(MODELS, model("m"))
    async with following(server.api()) as found:
        await until(lambda: "m" in found.addresses)
        hosts = [f"10.{i // 250}.{i % 250}.1" for i in range(9000)]
        await server.put(SLICES, pods_of("m", *hosts))
        await until(lambda: len(found.addresses["m"]) == 9000)


async def test_only_the_namespace_that_was_asked_for_counts(server: ApiServer) -> None:
    await server.put(MODELS, model("m", namespace="ns"))
    await server.put(MODELS, model("n", namespace="elsewhere"))
    async with following(server.api(), "ns") as found:
        await until(lambda: found.addresses == {"m": set()})


async def test_of_two_resources_with_one_name_the_older_one_serves_it(server: ApiServer) -> None:
    await server.put(MODELS, model("a", "2026-02-02T00:00:00Z", model={"name": "chat"}))
    await server.put(MODELS, model("b", "2026-01-01T00:00:00Z", model={"name": "chat"}))
    await server.put(SLICES, pods_of("a", "10.0.0.1"))
    await server.put(SLICES, pods_of("b", "10.0.0.2"))
    async with following(server.api()) as found:
        await until(lambda: found.addresses == {"chat": {"10.0.0.2:50051"}})
        assert found.source.resource("chat") == ("ns", "b")
        await server.delete(MODELS, "ns", "b")
        await until(lambda: found.addresses == {"chat": {"10.0.0.1:50051"}})
        assert found.source.resource("chat") == ("ns", "a")


async def test_the_resource_says_how_to_route() -> None:
    routing = {"weights": {"kvUtilization": 3}, "sessionAffinity": False}
    policy = read_model(model("m", routing=routing)).policy
    assert policy.weight("kvUtilization") == 3
    assert policy.weight("sessionAffinity") == 0


async def test_nobody_waits_for_a_model_that_somebody_has_set_to_zero() -> None:
    assert read_model(model("m")).waits
    assert read_model(model("m", replicas=1)).waits
    assert not read_model(model("m", replicas=0)).waits


async def test_what_is_known_stays_while_the_server_is_away_and_is_caught_up_after(
    server: ApiServer,
) -> None:
    await server.put(MODELS, model("m"))
    await server.put(SLICES, pods_of("m", "10.0.0.1"))
    async with following(server.api()) as found:
        await until(lambda: found.addresses == {"m": {"10.0.0.1:50051"}})
        await server.stop()
        await asyncio.sleep(0.3)
        assert found.addresses == {"m": {"10.0.0.1:50051"}}
        await server.put(SLICES, pods_of("m", "10.0.0.2"))
        await server.start()
        await until(lambda: found.addresses == {"m": {"10.0.0.2:50051"}})
    assert server.lists == 2  # watches went on from where they were


async def test_a_server_that_is_away_at_first_is_waited_for(server: ApiServer) -> None:
    await server.put(MODELS, model("m"))
    await server.stop()
    async with following(server.api()) as found:
        await asyncio.sleep(0.2)
        assert found.routes is None
        await server.start()
        await until(lambda: found.addresses == {"m": set()})


async def test_all_is_listed_anew_when_the_server_has_forgotten_its_history(server: ApiServer) -> None:
    await server.put(MODELS, model("m"))
    async with following(server.api()) as found:
        await until(lambda: found.addresses == {"m": set()})
        await until(lambda: server.watches == 2)
        del server.objects[MODELS, "ns", "m"]  # no event tells of it
        await server.put(MODELS, model("n"))
        await server.forget_history()
        await until(lambda: found.addresses == {"n": set()})


async def test_a_watch_without_a_word_is_given_up_and_begun_again(server: ApiServer) -> None:
    api = server.api(watch_grace=0.2)
    seen: list[set[tuple[str, str]]] = []
    mirror: Mirror[Any] = Mirror(
        api,
        f"/apis/serving.octavo.dev/v1alpha1/{MODELS}",
        read_model,
        lambda: seen.append(set(mirror.objects)),
        Random(0),
        watch_seconds=1,
    )
    server.stalled = True
    task = asyncio.create_task(mirror.run())
    await until(lambda: server.watches)
    await server.put(MODELS, model("m"))
    await asyncio.sleep(0.1)  # so that the stalled watch has passed it over
    server.stalled = False
    await until(lambda: seen[-1:] == [{("ns", "m")}], 15)
    task.cancel()
    await asyncio.wait([task])
    await api.close()


async def test_an_object_that_cannot_be_read_does_not_end_the_watch(server: ApiServer) -> None:
    async with following(server.api()) as found:
        await until(lambda: found.routes is not None)
        broken = model("broken")
        broken["spec"] = {"routing": {"weights": {"kvUtilization": "much"}}}
        await server.put(MODELS, broken)
        await asyncio.sleep(0.1)
        await server.delete(MODELS, "ns", "broken")
        await server.put(MODELS, model("m"))
        await until(lambda: found.addresses == {"m": set()})


async def test_credentials_that_are_no_longer_accepted_are_looked_up_again(server: ApiServer) -> None:
    server.token = "old"
    await server.put(MODELS, model("m"))
    async with following(server.api()) as found:
        await until(lambda: "m" in found.addresses)
        await server.stop()
        server.token = "new"
        await server.start()
        await server.put(MODELS, model("n"))
        await until(lambda: "n" in found.addresses)


def test_a_token_file_is_read_again_for_each_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    access = Access("https://api", token_file=file)
    for token in ("one", "two"):
        file.write_text(f"{token}\n")
        assert access.headers == {"Authorization": f"Bearer {token}"}


async def test_a_pod_finds_the_server_by_its_service_account(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(certifi.contents())
    (tmp_path / "token").write_text("t")
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    access = await find_access(environment, tmp_path)
    assert access.url == "https://[fd00::1]:6443"
    assert access.headers == {"Authorization": "Bearer t"}


async def test_a_pod_without_a_service_account_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="service account"):
        await find_access({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)


async def test_a_person_finds_the_server_by_a_kubeconfig_file(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(
        "{current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}],"
        " clusters: [{name: k, cluster: {server: 'http://api:8080'}}], users: [{name: u, user: {token: t}}]}"
    )
    access = await find_access({"KUBECONFIG": str(file)})
    assert access.url == "http://api:8080"
    assert access.headers == {"Authorization": "Bearer t"}


async def test_a_kubeconfig_that_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kubeconfig"):
        await find_access({"KUBECONFIG": str(tmp_path / "none")})
