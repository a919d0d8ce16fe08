"""Pods as processes of their own, a gateway in front of them, and what may happen to them."""

from __future__ import annotations

import asyncio

from octavo.service.gateway.directory import Directory
from octavo.service.gateway.pod import PodState


async def until_serving(directory: Directory, count: int, seconds: float = 30.0) -> None:
    """Waits until that many pods take requests."""
    async with asyncio.timeout(seconds):
        while True:
            pods = [pod for pool in directory.pools() for pod in pool.pods]
            if sum(pod.state is PodState.SERVING for pod in pods) >= count:
                return
            await asyncio.sleep(0.01)
