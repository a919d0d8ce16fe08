"""One chat over a bidirectional gRPC stream: `make demo`, or `python examples/demo.py "A question?"`.

Starts `octavo serve smollm2` as a process of its own on a free port, and stops it with SIGTERM. What it says
to the server, a client in any language can say with the two files in proto/octavo/v1.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path
from time import monotonic

from rich.console import Console

from octavo.service.client import Client
from octavo.service.figures import Figures
from octavo.v1 import inference_pb2 as pb

QUESTION = "Why is the sky blue? Answer in two sentences."
SAMPLING = pb.SamplingParams(temperature=0, max_tokens=160)
OCTAVO = Path(sys.executable).with_name("octavo")

console = Console(highlight=False, soft_wrap=True)


async def main(question: str) -> int:
    console.print("[bold]octavo serve smollm2[/bold]")
    with console.status("starting: importing torch, reading weights, allocating KV blocks"):
        server = await asyncio.create_subprocess_exec(
            OCTAVO, "serve", "smollm2", "--port", "0", stderr=asyncio.subprocess.PIPE
        )
        address, line = await ready(server)
    console.print(f"[green]✓[/green] {line}")
    try:
        async with Client(address) as client:
            await chat(client, question)
    finally:
        stopping = monotonic()
        server.send_signal(signal.SIGTERM)
        code = await server.wait()
    mark = "[green]✓[/green]" if code == 0 else "[red]✗[/red]"
    console.print(f"{mark} server stopped in {monotonic() - stopping:.1f} s with exit code {code}")
    return code


async def ready(server: asyncio.subprocess.Process) -> tuple[str, str]:
    """The server's address, and what it says of itself. Ends the demo if it does not come up."""
    assert server.stderr is not None
    said = ""
    async for line in server.stderr:
        said = line.decode().strip()
        if found := re.search(r"ready in .* on (\S+:\d+) .*", said):
            return found[1], found[0]
    sys.exit(f"the server did not start: {said}")


async def chat(client: Client, question: str) -> None:
    console.print(
        f"\n[bold cyan]user[/bold cyan]       {question}\n[bold cyan]assistant[/bold cyan]  ", end=""
    )
    model = await client.model()
    conversation = client.conversation()
    figures = Figures(model.block_size)
    messages = [pb.ChatMessage(role="user", content=question)]
    async for delta in conversation.say(pb.Chat(messages=messages), SAMPLING):
        figures.add(delta)
        print(delta.text, end="", flush=True)
    load = await client.load()  # the conversation holds its blocks, for a next turn
    console.print(f"\n\n[dim]{figures} (the server holds {load.held_blocks} of {load.total_blocks})[/dim]")
    await conversation.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(" ".join(sys.argv[1:]) or QUESTION)))
