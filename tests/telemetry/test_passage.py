"""What the door's span at a gateway says when a request has ended."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import set_span_in_context

from octavo.service.telemetry.gateway_metrics import GatewayMetrics
from octavo.service.telemetry.passage import Passage
from octavo.service.telemetry.setup import Telemetry
from octavo.v1 import inference_pb2 as pb

USAGE = pb.Usage(prompt_tokens=7, output_tokens=30, cached_prompt_tokens=4)
LENGTH, STOP, CANCELLED = pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_STOP, pb.FINISH_REASON_CANCELLED


async def door_after(*requests: list[int]) -> Any:
    """The attributes of a door's span whose requests ended with these reasons, one for each output."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    telemetry = Telemetry.start("octavo-gateway")
    metrics = GatewayMetrics(telemetry, list)
    with tracer.start_as_current_span("door") as door:
        for reasons in requests:
            Passage(tracer, metrics, "tiny", set_span_in_context(door)).finished(reasons, USAGE)
    telemetry.close()
    [span] = exporter.get_finished_spans()
    return span.attributes


async def test_each_output_has_its_end_and_all_have_one_usage() -> None:
    told = await door_after([LENGTH, STOP, LENGTH])
    assert told["gen_ai.response.finish_reasons"] == ("length", "stop", "length")
    assert told["gen_ai.usage.output_tokens"] == 30
    assert "error.type" not in told


async def test_the_requests_of_one_door_are_told_together() -> None:
    told = await door_after([LENGTH, STOP], [STOP, STOP])
    assert told["gen_ai.response.finish_reasons"] == ("length", "stop", "stop", "stop")
    assert told["gen_ai.usage.output_tokens"] == 60


@pytest.mark.parametrize("reasons", [[CANCELLED], [STOP, CANCELLED]])
async def test_a_request_of_which_an_output_is_cancelled_was_cancelled(reasons: list[int]) -> None:
    assert (await door_after(reasons))["error.type"] == "CANCELLED"
