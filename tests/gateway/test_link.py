"""The stream that all requests of a gateway to a pod share: what happens to one is its own affair."""

from __future__ import annotations

import asyncio

from octavo.service.gateway.config import GatewayConfig
from octavo.service.gateway.link import Link
from octavo.service.gateway.picker import Query
from octavo.service.gateway.sources import directory_of
from octavo.v1 import inference_pb2 as pb
from tests.gateway.fleet import until_serving
from tests.gateway.processes import PodProcess

NO_TRACE = ("", "")


async def test_a_request_that_is_cancelled_while_it_is_being_sent_ends_alone(fleet: list[PodProcess]) -> None:
    sampling = pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=500)
    request = pb.GenerateRequest(prompt=pb.Prompt(text="Hello"), sampling=sampling).SerializeToString()
    async with directory_of(GatewayConfig(pods=(fleet[0].address,), port=0, http=False)) as directory:
        await until_serving(directory, 1)
        [pool] = directory.pools()
        pick = pool.take(pool.pods[0], Query())
        assert pick is not None
        link = Link(pick)
        inbox = await link.begin(request, NO_TRACE)
        await inbox.read()
        for _ in range(5):
            sending = asyncio.create_task(link.begin(request, NO_TRACE))
            await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait({sending})
            assert sending.cancelled()
            await inbox.read()
        assert link.open
        await link.close()
        pick.done()
    async with asyncio.timeout(10):
        while (load := await fleet[0].load()).running or load.waiting:
            await asyncio.sleep(0.05)
