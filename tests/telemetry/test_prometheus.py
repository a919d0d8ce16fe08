"""The Prometheus page: names, labels and buckets by which vLLM's dashboards work."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from octavo.engine import ConfigError, EngineStopped, FinishReason, SamplingParams, Usage
from octavo.engine.info import EngineLoad
from octavo.engine.observer import RequestReport, StepReport
from octavo.engine.timeline import Timeline
from octavo.service.telemetry import definitions as of
from octavo.service.telemetry.engine_metrics import EngineMetrics
from octavo.service.telemetry.instruments import Instruments
from octavo.service.telemetry.setup import Telemetry
from octavo.service.telemetry.tally import Tally

# vllm/v1/metrics/loggers.py and vllm/v1/spec_decode/metrics.py of vLLM 0.17, without the prefix `vllm:`;
# histograms with their buckets.
# fmt: off
VLLM_GAUGES = {"kv_cache_usage_perc", "num_requests_running", "num_requests_waiting", "cache_config_info"}
VLLM_COUNTERS = {
    "prefix_cache_queries", "prefix_cache_hits", "num_preemptions", "prompt_tokens", "prompt_tokens_cached",
    "generation_tokens", "request_success", "spec_decode_num_draft_tokens", "spec_decode_num_accepted_tokens",
}
TIMES_OF_REQUESTS = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
]
TIMES_OF_TOKENS = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
]
COUNTS_UP_TO_512 = [1, 2, 5, 10, 20, 50, 100, 200, 500]
VLLM_HISTOGRAMS = {
    "iteration_tokens_total": [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384],
    "time_to_first_token_seconds": [
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
        40.0, 80.0, 160.0, 640.0, 2560.0,
    ],
    "inter_token_latency_seconds": TIMES_OF_TOKENS,
    "request_time_per_output_token_seconds": TIMES_OF_TOKENS,
    "e2e_request_latency_seconds": TIMES_OF_REQUESTS,
    "request_queue_time_seconds": TIMES_OF_REQUESTS,
    "request_inference_time_seconds": TIMES_OF_REQUESTS,
    "request_prefill_time_seconds": TIMES_OF_REQUESTS,
    "request_decode_time_seconds": TIMES_OF_REQUESTS,
    "request_prompt_tokens": COUNTS_UP_TO_512,
    "request_generation_tokens": COUNTS_UP_TO_512,
    "request_max_num_generation_tokens": COUNTS_UP_TO_512,
    "request_params_n": [1, 2, 5, 10, 20],
    "request_params_max_tokens": COUNTS_UP_TO_512,
    "request_prefill_kv_computed_tokens": COUNTS_UP_TO_512,
}
# fmt: on
LABELS = {"model_name": "tiny", "engine": "0"}
SECOND = 10**9
STEP = StepReport(
    started=0,
    ended=SECOND,
    num_prefill_tokens=24,
    num_decode_tokens=3,
    num_drawn_tokens=4,
    num_queried_tokens=40,
    num_hit_tokens=16,
    num_preemptions=0,
    token_gaps=(20_000_000, 20_000_000, 500_000_000),
    first_token_waits=(3 * SECOND,),
)
REQUEST = RequestReport(
    timeline=Timeline(
        arrived=100 * SECOND,
        scheduled=101 * SECOND,
        first_token=103 * SECOND,
        last_token=107 * SECOND,
        finished=107 * SECOND + SECOND // 2,
    ),
    usage=Usage(num_prompt_tokens=40, num_output_tokens=5, num_cached_tokens=16),
    num_resumed_tokens=0,
    params=SamplingParams(max_tokens=5),
    max_tokens=5,
    finish_reason=FinishReason.LENGTH,
)
CANCELLED_IN_QUEUE = RequestReport(
    timeline=Timeline(arrived=100 * SECOND, finished=101 * SECOND),
    usage=Usage(num_prompt_tokens=40, num_output_tokens=0, num_cached_tokens=0),
    num_resumed_tokens=0,
    params=SamplingParams(),
    max_tokens=472,
    finish_reason=FinishReason.CANCELLED,
)


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    telemetry = Telemetry.start("octavo-engine")
    yield telemetry
    telemetry.close()


LOAD = EngineLoad(
    total_blocks=32,
    held_blocks=8,
    cached_blocks=4,
    running=3,
    waiting=1,
    waiting_tokens=40,
    prefill_tokens=20,
    max_num_seqs=64,
    output_tokens_per_second=0.0,
    total_output_tokens=1000,
    preemptions=2,
    total_requests=50,
    total_finished_requests=46,
    total_prompt_tokens=2000,
    total_cached_prompt_tokens=500,
    draining=False,
)


def fake_engine(max_model_len: int) -> Any:
    """What the metrics read of an engine; `now` is its load."""
    model = SimpleNamespace(max_model_len=max_model_len, block_size=16, num_blocks=32, dtype="float32")
    engine = SimpleNamespace(model=model, now=LOAD)
    engine.load = lambda: engine.now
    return engine


async def families(telemetry: Telemetry) -> dict[str, Metric]:
    """The page as Prometheus understands it, by name without prefix."""
    found = text_string_to_metric_families((await telemetry.page()).decode())
    return {family.name.removeprefix("octavo:"): family for family in found}


def bounds(family: Metric) -> list[float]:
    """Of a histogram's first series."""
    buckets = [sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")]
    return [float(bound) for bound in buckets if bound != "+Inf"]


def value(family: Metric, name: str = "", **labels: str) -> float:
    [found] = [
        sample.value
        for sample in family.samples
        if sample.name == f"{family.name}{name}" and labels.items() <= sample.labels.items()
    ]
    return found


async def test_the_engine_has_vllms_metrics_with_its_labels_and_buckets(telemetry: Telemetry) -> None:
    metrics = EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    metrics.step(STEP)
    metrics.finished(REQUEST)
    shown = await families(telemetry)
    for name, family in shown.items():
        if family.type == "histogram":
            assert bounds(family) == VLLM_HISTOGRAMS[name], name
        for sample in family.samples:
            if name not in ("cache_config_info", "target_info"):
                assert sample.labels.items() >= LABELS.items()
    types = {name: family.type for name, family in shown.items() if name != "target_info"}
    assert types == {
        **dict.fromkeys(VLLM_GAUGES, "gauge"),
        **dict.fromkeys(VLLM_COUNTERS, "counter"),
        **dict.fromkeys(VLLM_HISTOGRAMS, "histogram"),
    }
    assert {sample.labels["finished_reason"] for sample in shown["request_success"].samples} == {
        *("stop", "length", "abort", "error", "repetition")
    }


async def test_before_the_first_request_everything_is_there_and_zero(telemetry: Telemetry) -> None:
    EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    shown = await families(telemetry)
    assert VLLM_HISTOGRAMS.keys() <= shown.keys()
    for name in VLLM_HISTOGRAMS:
        assert value(shown[name], "_count", **LABELS) == 0
        assert bounds(shown[name]) == VLLM_HISTOGRAMS[name]
    assert value(shown["request_success"], "_total", finished_reason="stop", **LABELS) == 0


async def test_names_on_the_page_are_those_of_the_definitions(telemetry: Telemetry) -> None:
    EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    page = (await telemetry.page()).decode()
    for definition in of.ENGINE:
        assert f"# TYPE {definition.exposed_name} " in page


async def test_a_request_is_recorded_by_its_timeline(telemetry: Telemetry) -> None:
    metrics = EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    metrics.finished(REQUEST)
    shown = await families(telemetry)
    assert value(shown["request_queue_time_seconds"], "_sum") == pytest.approx(1.0)
    assert value(shown["request_prefill_time_seconds"], "_sum") == pytest.approx(2.0)
    assert value(shown["request_decode_time_seconds"], "_sum") == pytest.approx(4.0)
    assert value(shown["request_inference_time_seconds"], "_sum") == pytest.approx(6.0)
    assert value(shown["e2e_request_latency_seconds"], "_sum") == pytest.approx(7.5)
    assert value(shown["request_time_per_output_token_seconds"], "_sum") == pytest.approx(1.0)
    assert value(shown["request_prompt_tokens"], "_sum") == 40
    assert value(shown["request_prefill_kv_computed_tokens"], "_sum") == 24
    assert value(shown["request_generation_tokens"], "_sum") == 5
    assert value(shown["request_max_num_generation_tokens"], "_sum") == 5
    assert value(shown["request_params_max_tokens"], "_sum") == 5
    assert value(shown["request_params_n"], "_sum") == 1
    assert value(shown["request_success"], "_total", finished_reason="length") == 1


async def test_a_request_for_several_outputs_lasts_until_the_last_one_ends(telemetry: Telemetry) -> None:
    metrics = EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    metrics.finished(replace(REQUEST, params=SamplingParams(n=3, max_tokens=5), usage=Usage(40, 15, 16)))
    shown = await families(telemetry)
    assert value(shown["request_success"], "_total", finished_reason="length") == 1
    assert value(shown["request_params_n"], "_sum") == 3
    assert value(shown["request_generation_tokens"], "_sum") == 15
    assert value(shown["request_decode_time_seconds"], "_sum") == pytest.approx(4.5)
    assert value(shown["request_inference_time_seconds"], "_sum") == pytest.approx(6.5)
    for of_one_output in ("request_max_num_generation_tokens", "request_time_per_output_token_seconds"):
        assert value(shown[of_one_output], "_count") == 0


async def test_an_output_may_end_by_repeating_itself(telemetry: Telemetry) -> None:
    metrics = EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    metrics.finished(replace(REQUEST, finish_reason=FinishReason.REPETITION))
    shown = await families(telemetry)
    assert value(shown["request_success"], "_total", finished_reason="repetition") == 1


async def test_a_request_cancelled_in_the_queue_has_only_what_it_reached(telemetry: Telemetry) -> None:
    metrics = EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    metrics.finished(CANCELLED_IN_QUEUE)
    shown = await families(telemetry)
    assert value(shown["request_success"], "_total", finished_reason="abort") == 1
    assert value(shown["e2e_request_latency_seconds"], "_count") == 1
    assert value(shown["time_to_first_token_seconds"], "_count") == 0
    assert value(shown["request_queue_time_seconds"], "_count") == 0


async def test_a_failed_request_counts_as_an_error(telemetry: Telemetry) -> None:
    metrics = EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    metrics.finished(replace(REQUEST, finish_reason=None, error=EngineStopped("out of luck")))
    shown = await families(telemetry)
    assert value(shown["request_success"], "_total", finished_reason="error") == 1


async def test_a_step_is_recorded_once_and_counts_every_token(telemetry: Telemetry) -> None:
    metrics = EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    metrics.step(STEP)
    shown = await families(telemetry)
    assert value(shown["inter_token_latency_seconds"], "_count") == 3
    assert value(shown["inter_token_latency_seconds"], "_sum") == pytest.approx(0.02 + 0.02 + 0.5)
    assert value(shown["inter_token_latency_seconds"], "_bucket", le="0.025") == 2
    assert value(shown["time_to_first_token_seconds"], "_sum") == pytest.approx(3.0)
    assert value(shown["iteration_tokens_total"], "_sum") == 24 + 3
    assert value(shown["prefix_cache_queries"], "_total") == 40
    assert value(shown["prefix_cache_hits"], "_total") == 16


async def test_guesses_are_counted_and_those_that_came_true(telemetry: Telemetry) -> None:
    metrics = EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    for _ in range(2):
        metrics.step(replace(STEP, num_guessed_tokens=8, num_accepted_tokens=3))
    shown = await families(telemetry)
    assert value(shown["spec_decode_num_draft_tokens"], "_total") == 16
    assert value(shown["spec_decode_num_accepted_tokens"], "_total") == 6
    assert value(shown["iteration_tokens_total"], "_sum") == 2 * (24 + 3 + 8)


async def test_the_load_is_read_when_the_page_is(telemetry: Telemetry) -> None:
    engine = fake_engine(max_model_len=512)
    EngineMetrics(telemetry, engine, "tiny")
    assert value((await families(telemetry))["num_requests_running"]) == 3
    engine.now = replace(engine.now, running=5, held_blocks=16)
    shown = await families(telemetry)
    assert value(shown["num_requests_running"]) == 5
    assert value(shown["kv_cache_usage_perc"]) == 0.5


async def test_the_configuration_of_the_cache_is_in_labels(telemetry: Telemetry) -> None:
    EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    [info] = (await families(telemetry))["cache_config_info"].samples
    assert info.value == 1
    assert info.labels == {
        "engine": "0",
        "block_size": "16",
        "num_gpu_blocks": "32",
        "cache_dtype": "float32",
    }


async def test_a_tally_counts_as_often_as_it_was_observed(telemetry: Telemetry) -> None:
    histogram = Instruments(telemetry).histogram(of.INTER_TOKEN_LATENCY)
    histogram.record(Tally(0.03, 64), LABELS)
    histogram.record(0.5, LABELS)
    family = (await families(telemetry))["inter_token_latency_seconds"]
    assert value(family, "_count") == 65
    assert value(family, "_sum") == pytest.approx(64 * 0.03 + 0.5)


async def test_the_page_does_not_stop_the_event_loop(telemetry: Telemetry) -> None:
    """Gauges are read on the loop while the page is made in a thread."""
    EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    pages = await asyncio.wait_for(asyncio.gather(*(telemetry.page() for _ in range(8))), 5)
    assert len({len(page) for page in pages}) == 1


async def test_a_disabled_sdk_has_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    telemetry = Telemetry.start("octavo-engine")
    EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny").step(STEP)
    assert b"octavo:" not in await telemetry.page()
    telemetry.close()


async def test_without_http_a_port_of_its_own_can_serve_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(port))
    telemetry = Telemetry.start("octavo-engine")
    EngineMetrics(telemetry, fake_engine(max_model_len=512), "tiny")
    page = await asyncio.to_thread(read, f"http://localhost:{port}/metrics")
    assert 'octavo:num_requests_running{engine="0",model_name="tiny"} 3.0' in page
    telemetry.close()
    with pytest.raises(OSError):
        read(f"http://localhost:{port}/metrics")


def test_a_taken_metrics_port_is_a_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.0.1")
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(port))
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: cannot be listened on for metrics"):
            Telemetry.start("octavo-engine")


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        body: bytes = response.read()
    return body.decode()
