"""A pod's metrics, on its page and by OTLP, after requests that are known."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import httpx2 as httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from octavo.service.server.afterwork import Afterwork
from octavo.service.telemetry.early_reports import EarlyReports
from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import ENDLESS, Serving, World, collect
from tests.telemetry.collector import Collector, values
from tests.telemetry.conftest import Caller

TEN = pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=10)
PROMPT = list(range(10, 50))  # 40 tokens: two full blocks and a half


def request(sampling: pb.SamplingParams = TEN) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=PROMPT)), sampling=sampling)


@pytest.fixture
async def pod(serving: Serving) -> World:
    return await serving(served_name="tiny", http=True, http_port=0)


async def page(pod: World) -> dict[str, Metric]:
    async with httpx.AsyncClient(base_url=str(pod.server.http_url)) as http:
        answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = text_string_to_metric_families(answer.text)
    return {family.name.removeprefix("octavo:"): family for family in found}


def value(families: dict[str, Metric], name: str, suffix: str = "", **labels: str) -> float:
    family = families[name]
    [found] = [
        sample.value
        for sample in family.samples
        if sample.name == f"{family.name}{suffix}" and labels.items() <= sample.labels.items()
    ]
    return found


async def test_two_requests_of_ten_tokens(pod: World) -> None:
    for _ in range(2):
        await collect(pod.inference.Generate(request()))
    await pod.until_idle()
    found = await page(pod)
    assert value(found, "request_success", "_total", finished_reason="length", model_name="tiny") == 2
    assert value(found, "prompt_tokens", "_total") == 80
    assert value(found, "prefix_cache_queries", "_total") == 80
    assert value(found, "prefix_cache_hits", "_total") == 32  # the second found the two full blocks
    assert value(found, "prompt_tokens_cached", "_total") == 32
    assert value(found, "generation_tokens", "_total") == 20
    assert value(found, "time_to_first_token_seconds", "_count") == 2
    assert value(found, "inter_token_latency_seconds", "_count") == 18
    assert value(found, "request_time_per_output_token_seconds", "_count") == 2
    assert value(found, "request_generation_tokens", "_sum") == 20
    assert value(found, "request_prompt_tokens", "_sum") == 80
    assert value(found, "request_prefill_kv_computed_tokens", "_sum") == 48
    assert value(found, "iteration_tokens_total", "_sum") == 48 + 18
    assert value(found, "num_requests_running") == 0
    assert value(found, "kv_cache_usage_perc") == 0
    whole = value(found, "e2e_request_latency_seconds", "_sum")
    phases = ("request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds")
    assert sum(value(found, phase, "_sum") for phase in phases) == pytest.approx(whole, rel=0.05)


async def test_what_runs_shows_while_it_does(pod: World) -> None:
    call = pod.inference.Generate(request(ENDLESS))
    await call.read()
    found = await page(pod)
    assert value(found, "num_requests_running") == 1
    assert 0 < value(found, "kv_cache_usage_perc") < 1
    assert value(found, "time_to_first_token_seconds", "_count") == 1
    assert value(found, "e2e_request_latency_seconds", "_count") == 0
    call.cancel()
    await pod.until_idle()
    found = await page(pod)
    assert value(found, "request_success", "_total", finished_reason="abort") == 1
    assert value(found, "num_requests_running") == 0


async def test_a_refused_request_is_none_of_the_engines(pod: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(pod.inference.Generate(request(pb.SamplingParams(top_p=2))))
    found = await page(pod)
    assert sum(sample.value for sample in found["request_success"].samples) == 0


async def test_pages_under_load_stop_nobody(pod: World) -> None:
    calls = [collect(pod.inference.Generate(request())) for _ in range(8)]
    pages = [page(pod) for _ in range(8)]
    await asyncio.wait_for(asyncio.gather(*calls, *pages), 20)


async def test_the_same_goes_out_by_otlp(collector: Collector, serving: Serving) -> None:
    pod = await serving(served_name="tiny")
    await collect(pod.inference.Generate(request()))

    def point(name: str) -> Any:
        metric = collector.metrics.get("octavo-engine", {}).get(name)
        if metric is None:
            return None
        data = getattr(metric, metric.WhichOneof("data"))
        return data.data_points[0]

    def arrived(_: Collector) -> bool:
        found = point("octavo.generation_tokens")
        return found is not None and found.as_int == 10

    await collector.until(arrived)
    assert values(point("octavo.generation_tokens").attributes) == {"model_name": "tiny", "engine": "0"}
    latency = point("octavo.inter_token_latency")
    assert latency.count == 9
    assert list(latency.explicit_bounds)[:3] == [0.01, 0.025, 0.05]
    assert collector.metrics["octavo-engine"]["octavo.inter_token_latency"].unit == "s"


@pytest.mark.parametrize("early", [False, True], ids=["", "before there are metrics"])
async def test_a_traced_request_is_an_exemplar_of_its_histograms(
    collector: Collector, serving: Serving, caller: Caller, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_ended = asyncio.Event()
    begin = Afterwork._begin_metrics

    async def begin_late(self: Afterwork, reports: EarlyReports) -> None:
        await has_ended.wait()
        await begin(self, reports)

    if early:
        monkeypatch.setattr(Afterwork, "_begin_metrics", begin_late)
    pod = await serving(served_name="tiny")
    await collect(pod.inference.Generate(request(), metadata=caller.metadata))
    has_ended.set()

    def exemplars(_: Collector) -> set[str] | None:
        return collector.exemplars.get(("octavo-engine", "octavo.e2e_request_latency"))

    assert await collector.until(exemplars) == {caller.trace_id}
