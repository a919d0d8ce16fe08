"""The name of the model that pods serve, asked of the pods themselves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc

from octavo.service.gateway.pod import CHANNEL_OPTIONS
from octavo.v1 import inference_pb2
from octavo.v1.inference_pb2_grpc import InferenceStub

if TYPE_CHECKING:
    from collections.abc import Iterable

PATIENCE = 5.0
"""Seconds for a pod to answer."""
PAUSE = 0.5
"""Seconds between two attempts."""


async def served_name(addresses: Iterable[str]) -> str:
    """The name that the first of the pods to answer gives to its model. Waits until one does."""
    attempts = [asyncio.create_task(_ask(address)) for address in addresses]
    try:
        done, _ = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)


async def _ask(address: str) -> str:
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub: Any = InferenceStub(channel)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                request = inference_pb2.GetModelRequest()
                answer = await stub.GetModel(request, timeout=PATIENCE, wait_for_ready=True)
                return str(answer.model.name)
            await asyncio.sleep(PAUSE)
