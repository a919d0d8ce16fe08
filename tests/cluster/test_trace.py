"""One trace from the client through gateway, pod and engine, as a collector in the cluster receives it."""

from __future__ import annotations

import asyncio
import json
import secrets

import grpc
import httpx2

from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.cluster.conftest import Deploy, Installation

GREEDY = pb.SamplingParams(temperature=0, max_tokens=8)


async def test_one_trace_goes_from_the_client_through_gateway_pod_and_engine(
    installation: Installation, deploy: Deploy
) -> None:
    await deploy("traced")
    for door in ("grpc", "http"):
        await check_the_trace_of_a_request(installation, door)


async def check_the_trace_of_a_request(installation: Installation, door: str) -> None:
    trace, client = secrets.token_hex(16), secrets.token_hex(8)
    await ask(installation, door, f"00-{trace}-{client}-01")
    spans = await received(installation, trace)
    by_id = {span["id"]: span for span in spans}

    def path(span: dict[str, str]) -> list[str]:
        steps = []
        while span["id"] in by_id:
            steps.append(f"{span['service']}/{span['name'].split()[0]}")
            if span["parent"] == client:
                return [*reversed(steps)]
            span = by_id[span["parent"]]
        raise AssertionError(f"{span} does not lead to the client's span")

    decode = next(span for span in spans if span["name"] == "decode")
    services = [step.partition("/")[0] for step in path(decode)]
    assert services[0] == "octavo-gateway"
    assert services[-1] == "octavo-engine"
    for span in spans:
        path(span)
    names = {span["name"] for span in spans}
    assert names >= {"pick", "queue", "prefill", "decode"}
    server = next(span for span in spans if span["parent"] == client)
    assert {"gen_ai.request.model", "gen_ai.usage.output_tokens"} <= set(server["attributes"])


async def ask(installation: Installation, door: str, traceparent: str) -> None:
    if door == "grpc":
        async with grpc.aio.insecure_channel(installation.grpc_address) as channel:
            request = pb.GenerateRequest(model="traced", prompt=pb.Prompt(text="Once"), sampling=GREEDY)
            call = InferenceStub(channel).Generate(request, metadata=(("traceparent", traceparent),))
            assert [response async for response in call]
        return
    async with httpx2.AsyncClient() as client:
        answer = await client.post(
            f"http://{installation.http_address}/v1/completions",
            json={"model": "traced", "prompt": "Once", "max_tokens": 8},
            headers={"traceparent": traceparent},
            timeout=60,
        )
        answer.raise_for_status()


async def received(installation: Installation, trace: str) -> list[dict[str, str]]:
    """The spans of one trace, once those of the engine and of both servers are there."""
    async with asyncio.timeout(60):
        while True:
            lines = (await installation.kubectl("logs", "collector", "--tail=-1")).splitlines()
            spans = [span for span in map(json.loads, lines) if span["trace"] == trace]
            names = {span["name"] for span in spans}
            if "decode" in names and "pick" in names:
                await asyncio.sleep(2)  # exporters send in batches: let the last one come
                lines = (await installation.kubectl("logs", "collector", "--tail=-1")).splitlines()
                return [span for span in map(json.loads, lines) if span["trace"] == trace]
            await asyncio.sleep(0.5)
