"""How long a request waits that wakes a model at zero."""

from __future__ import annotations

import time

import grpc

from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.cluster.conftest import Deploy, Installation
from tests.cluster.kubectl import Kubectl, status

WAKES = 3
BOUND = 10.0
"""Seconds to the first token, where the nodes have the image; docs/kubernetes.md has what it takes."""
AT_ZERO = {"minReplicas": 0, "maxReplicas": 1, "scaleToZeroAfter": "5s"}


async def test_a_held_request_is_answered_within_seconds(installation: Installation, deploy: Deploy) -> None:
    kubectl = await deploy("sleeper", scaling=AT_ZERO)
    waits = []
    for _ in range(WAKES):
        await until_asleep(kubectl, "sleeper")
        waits.append(await seconds_to_first_token(installation, "sleeper"))
    print(f"\n0 → 1: first token after {', '.join(f'{wait:.2f}' for wait in waits)} s")
    assert min(waits) < BOUND


async def until_asleep(kubectl: Kubectl, name: str) -> None:
    """Waits until no pod is left, not even one that ends."""
    await kubectl.until(f"oim/{name}", lambda oim: status(oim).get("replicas") == 0, 120)
    await kubectl("wait", "pods", "-l", f"serving.octavo.dev/model={name}", "--for=delete", "--timeout=60s")


async def seconds_to_first_token(installation: Installation, model: str) -> float:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="Name a colour.")])
    greedy = pb.SamplingParams(temperature=0, max_tokens=8)
    request = pb.GenerateRequest(model=model, prompt=pb.Prompt(chat=chat), sampling=greedy)
    async with grpc.aio.insecure_channel(installation.grpc_address) as channel:
        await channel.channel_ready()
        began = time.monotonic()
        arrived = [time.monotonic() async for _ in InferenceStub(channel).Generate(request, timeout=60)]
    return arrived[0] - began
