"""Load for a server or a gateway: `python examples/load.py localhost:50050 --streams 16`.

Each stream asks for one answer after the other until Ctrl-C; the demo runs it beside its table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from dataclasses import dataclass

from octavo.service.client import Client
from octavo.service.failures import ServerError
from octavo.v1 import inference_pb2 as pb

TOPICS = ("the sea", "paper", "a library at night", "bread", "the first snow", "maps", "an old clock", "rain")


@dataclass
class Tally:
    """What the streams have got so far."""

    tokens: int = 0
    answers: int = 0
    failures: int = 0
    last_failure: str = ""


async def load(address: str, streams: int, tokens: int, tally: Tally) -> None:
    """Keeps `streams` answers of `tokens` tokens each under way, until it is cancelled."""
    async with Client(address) as client, asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(_stream(client, random.Random(number), tokens, tally))


async def _stream(client: Client, chance: random.Random, tokens: int, tally: Tally) -> None:
    sampling = pb.SamplingParams(temperature=0.8, max_tokens=tokens, ignore_eos=True)
    while True:
        text = f"{chance.randrange(10**6)}: write a long story about {chance.choice(TOPICS)}."
        prompt = pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content=text)]))
        so_far = 0
        try:
            async for delta in client.generate(prompt, sampling):
                tally.tokens += delta.usage.output_tokens - so_far
                so_far = delta.usage.output_tokens
            tally.answers += 1
        except ServerError as error:
            tally.failures += 1
            tally.last_failure = str(error)
            await asyncio.sleep(1)


async def main(address: str, streams: int, tokens: int) -> None:
    tally = Tally()
    running = asyncio.ensure_future(load(address, streams, tokens, tally))
    before = 0
    while not running.done():
        await asyncio.sleep(1)
        print(
            f"{tally.tokens - before:6d} tokens/s  {tally.answers} answers  {tally.failures} failures",
            flush=True,
        )
        before = tally.tokens
    await running


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="host:port of gRPC")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=400, help="of each answer")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.address, options.streams, options.tokens))
