"""An engine's process as the load watcher sees it: `python -m tests.operator.fake_engine PORT HELD_BLOCKS`.

It counts its own reports as requests, and queues one request in every report with `--queue`.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from octavo.v1 import engine_pb2 as pb
from octavo.v1.engine_pb2_grpc import EngineServicer, add_EngineServicer_to_server

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeEngine(EngineServicer):
    def __init__(self, held_blocks: int, queue: bool) -> None:
        self.held_blocks = held_blocks
        self.waiting = int(queue)
        self.reports = 0

    def WatchLoad(self, request: pb.WatchLoadRequest, context: Any) -> Iterator[pb.WatchLoadResponse]:
        while context.is_active():
            self.reports += 1
            load = pb.Load(
                total_blocks=100,
                held_blocks=self.held_blocks,
                running=2,
                waiting=self.waiting,
                waiting_tokens=10 * self.waiting,
                total_requests=self.reports,
                total_prompt_tokens=7,
                total_cached_prompt_tokens=3,
                total_output_tokens=5,
            )
            yield pb.WatchLoadResponse(load=load)
            time.sleep(request.interval.ToTimedelta().total_seconds())


def main(port: str, held_blocks: str, *flags: str) -> None:
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    add_EngineServicer_to_server(FakeEngine(int(held_blocks), "--queue" in flags), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
