"""`octavo serve` from the start of its process to ready, and the latency of its first request.

    python -m benchmarks.startup [--starts 7] [-- --dtype bfloat16]

The first start warms the page cache and is not counted. Medians. What follows -- goes to `octavo serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness.resident import resident_bytes
from benchmarks.harness.results import keep
from rich.console import Console
from rich.progress import track
from rich.table import Table

from octavo.service.client import Client
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

OCTAVO = Path(sys.executable).with_name("octavo")
TARGET = 0.5
PROMPT, SAMPLING = pb.Prompt(text="The"), pb.SamplingParams(temperature=0, max_tokens=1)


async def start(model: str, flags: Sequence[str]) -> dict[str, float]:
    """ready, first, second: seconds to ready, of the first request and of the one after it. resident: bytes
    when it was ready."""
    started = time.perf_counter()
    server = await asyncio.create_subprocess_exec(
        OCTAVO, "serve", model, "--port", "0", *flags, stderr=asyncio.subprocess.PIPE
    )
    try:
        address = await ready(server)
        found = {"ready": time.perf_counter() - started, "resident": float(resident_bytes(server.pid))}
        async with Client(address) as client:
            await client.model()  # the connection is made; it is not the request's
            for name in ("first", "second"):
                asked = time.perf_counter()
                async for _ in client.generate(PROMPT, SAMPLING):
                    pass
                found[name] = time.perf_counter() - asked
        return found
    finally:
        server.send_signal(signal.SIGTERM)
        await server.wait()


async def ready(server: asyncio.subprocess.Process) -> str:
    """The address that it says it is ready on."""
    assert server.stderr is not None
    said = b""
    async for said in server.stderr:
        if found := re.search(r"ready in .* on (\S+:\d+) ", said.decode()):
            return found[1]
    raise SystemExit(f"octavo serve did not start: {said.decode().strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("flags", nargs="*", help="for octavo serve")
    options, console = parser.parse_args(), Console()
    asyncio.run(start(options.model, options.flags))
    starts = [
        asyncio.run(start(options.model, options.flags))
        for _ in track(range(options.starts), description="starting", console=console, transient=True)
    ]
    table = Table("octavo serve", "median", "best", "worst")
    rows = {"seconds to ready": "ready", "first request, s": "first", "second request, s": "second"}
    for name, key in rows.items():
        values = [each[key] for each in starts]
        table.add_row(name, *[f"{v:.3f}" for v in (statistics.median(values), min(values), max(values))])
    resident = statistics.median(each["resident"] for each in starts)
    table.add_row("resident when ready, MB", f"{resident / 1e6:.0f}", "", "")
    console.print(table, f"wanted: ready in at most {TARGET} s")
    console.print("written:", *map(str, keep("startup", {"flags": options.flags, "starts": starts})))


if __name__ == "__main__":
    main()
