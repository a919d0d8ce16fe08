"""Telemetry of whole processes: by either protocol, to the last span, or not at all."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import grpc
import httpx2 as httpx
import pytest

from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.conftest import TinyModel
from tests.service.conftest import GREEDY, as_prompt
from tests.service.test_serve import Process, served
from tests.telemetry.collector import Collector, http_collector
from tests.telemetry.conftest import Caller

SLOW_BATCHES = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}


def arguments(tiny_model: TinyModel) -> list[str]:
    return [str(tiny_model("llama")), "--kv-cache-memory", "4Mi", "--served-name", "tiny"]


def ask(octavo: Process, caller: Caller) -> None:
    with grpc.insecure_channel(octavo.address) as channel:
        request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=GREEDY)
        list(InferenceStub(channel).Generate(request, metadata=caller.metadata))


def test_what_is_left_goes_out_at_the_end_and_over_http(
    tiny_model: TinyModel, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches would go out after a minute, but the end of the process sends them."""
    with http_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=my-engine,team=red")
        for name, value in SLOW_BATCHES.items():
            monkeypatch.setenv(name, value)
        with served(*arguments(tiny_model)) as octavo:
            ask(octavo, caller)
            octavo.process.send_signal(signal.SIGTERM)
            assert octavo.end() == 0
        spans = {span.name: span for span in collector.spans if span.trace_id == caller.trace_id}
        assert {"text_completion tiny", "queue", "prefill", "decode"} == spans.keys()
        assert {span.service for span in spans.values()} == {"my-engine"}
        assert "octavo.generation_tokens" in collector.metrics["my-engine"]


def test_a_collector_that_is_not_there_delays_the_end_a_few_seconds(
    tiny_model: TinyModel, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    for name, value in SLOW_BATCHES.items():
        monkeypatch.setenv(name, value)
    with served(*arguments(tiny_model)) as octavo:
        ask(octavo, caller)
        octavo.process.send_signal(signal.SIGTERM)
        assert octavo.process.wait(20) == 0


async def test_a_disabled_sdk_tells_nothing_and_the_pod_serves(
    tiny_model: TinyModel, collector: Collector, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with served(*arguments(tiny_model), "--http", "--http-port", "0") as octavo:
        ask(octavo, caller)
        found = re.search(r"http://127\.0\.0\.1:\d+", "".join(octavo.lines))
        assert found
        async with httpx.AsyncClient(base_url=found[0]) as http:
            assert "octavo:" not in (await http.get("/metrics")).text
        octavo.process.send_signal(signal.SIGTERM)
        assert octavo.end() == 0
    assert not collector.spans
    assert not collector.metrics


def test_a_process_logs_json_where_no_terminal_is(tiny_model: TinyModel) -> None:
    with served(*arguments(tiny_model)) as octavo:
        assert octavo.address
        octavo.process.send_signal(signal.SIGTERM)
        assert octavo.end() == 0
    entries = [json.loads(line) for line in octavo.lines]
    assert entries[0]["message"].startswith("ready in ")
    assert {entry["logger"] for entry in entries} == {"octavo"}


def test_a_bad_variable_ends_a_start_with_exit_code_2(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "jaeger")
    process = Process(*arguments(tiny_model))
    assert process.end() == 2
    assert "environment variable OTEL_TRACES_EXPORTER" in "".join(process.lines)


def test_unconfigured_it_has_no_thread_no_span_and_no_exporter() -> None:
    """What is not asked for is not even imported."""
    check = """
import sys, threading
from octavo.service.telemetry.setup import Telemetry
telemetry = Telemetry.start("octavo-gateway")
assert threading.active_count() == 1, threading.enumerate()
for module in ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp", "torch", "numpy"):
    assert module not in sys.modules, module
span = telemetry.tracer.start_span("pick")
assert not span.is_recording() and not span.get_span_context().is_valid
telemetry.close()
"""
    environment = {"PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", check], check=True, env=environment, timeout=60)
