"""A pod as the gateway sees it: a channel, the load that it reports, and whether it can be relied on."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from octavo.v1 import engine_pb2, gateway_pb2, inference_pb2
from octavo.v1.engine_pb2_grpc import EngineStub
from octavo.v1.inference_pb2_grpc import InferenceStub

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Connections of its own: a pod's streams break together, and no other channel's settings apply.
    ("grpc.use_local_subchannel_pool", 1),
    # A peer whose machine is gone is noticed within 5 s, and so is a process that is stopped. The server
    # takes pings that often, since its reports flow between them.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),  # the one that counts in gRPC of today
    ("grpc.http2.max_pings_without_data", 0),
    # A pod that has restarted is connected to within a second, and a connection attempt fails as fast.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # Also the longest that a pod which has just become ready is left alone.
    ("grpc.max_reconnect_backoff_ms", 250),
    # A stream takes so many bytes unread, where gRPC would let it grow to megabytes on a fast network: when a
    # client stops reading, its sequence is to pause soon.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 * 1024),
    # A proxy from the environment is not meant for pods.
    ("grpc.enable_http_proxy", 0),
)


class PodState(enum.Enum):
    """Whether a pod gets requests; the numbers are the protocol's."""

    CONNECTING = gateway_pb2.POD_STATE_CONNECTING
    SERVING = gateway_pb2.POD_STATE_SERVING
    DRAINING = gateway_pb2.POD_STATE_DRAINING
    EJECTED = gateway_pb2.POD_STATE_EJECTED


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSettings:
    """How a pod is watched. All times in seconds."""

    interval: float = 0.2
    """Between two reports."""
    hang_timeout: float = 5.0
    """Without a report for so long, a pod counts as lost."""
    first_ejection: float = 0.5
    """How long a pod gets nothing after a request has failed there; twice as long after each further one."""
    longest_ejection: float = 30.0


class Pod:
    """One address. `changed` is called on each report and whenever the state is another one.

    state: CONNECTING until the first report; SERVING or DRAINING by what the last one says; EJECTED when
    reports stop or a request has failed there, until the ejection is over and a fresh report has come.
    """

    def __init__(
        self,
        address: str,
        settings: PodSettings,
        changed: Callable[[Pod], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.inference: Any = InferenceStub(self.channel)
        self.state = PodState.CONNECTING
        self.model: inference_pb2.Model | None = None
        """What it serves, once it has told."""
        self.load: engine_pb2.Load | None = None
        self.reported_at = 0.0
        self.in_flight = 0
        """Requests that this gateway has under way there."""
        self.lost = asyncio.Event()
        """Set when reports break off or stop for `hang_timeout`: what runs there had better move. Each
        connection has its own, so take it when a stream begins."""
        self.relays = True
        """Whether it has `Engine.Relay`, as far as is known; an older one has not."""
        self._settings = settings
        self._changed = changed
        self._clock = clock
        self._failures = 0
        self._ejected_until = 0.0
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Pod {self.address} {self.state.name.lower()}>"

    def start(self) -> None:
        self._task = asyncio.create_task(self._watch(), name=f"load of {self.address}")

    async def close(self) -> None:
        """Cuts the connection, and with it what still runs there."""
        self.lost.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.channel.close()

    def succeeded(self) -> None:
        """A request has ended well there."""
        self._failures = 0

    def failed(self) -> None:
        """A request could not be served there: it gets none for a while."""
        if self._clock() < self._ejected_until:
            return  # many streams break at once; that is one failure
        pause = self._settings.first_ejection * 2**self._failures
        self._failures += 1
        self._ejected_until = self._clock() + min(pause, self._settings.longest_ejection)
        self._become(PodState.EJECTED)

    async def _watch(self) -> None:
        stub: Any = EngineStub(self.channel)
        request = engine_pb2.WatchLoadRequest()
        request.interval.FromNanoseconds(int(self._settings.interval * 1e9))
        while True:
            await self._learn_model()
            call = stub.WatchLoad(request, wait_for_ready=True)
            try:
                reason = await self._read(call)
            finally:
                call.cancel()
            self._lose(reason)
            await asyncio.sleep(self._settings.interval)

    async def _learn_model(self) -> None:
        request = inference_pb2.GetModelRequest()
        patience = self._settings.hang_timeout
        with contextlib.suppress(grpc.aio.AioRpcError):  # its reports decide whether it is used
            answer = await self.inference.GetModel(request, wait_for_ready=True, timeout=patience)
            self.model = answer.model

    async def _read(self, call: Any) -> str:
        """Takes reports until they stop, and returns why they did."""
        try:
            async with asyncio.timeout(self._settings.hang_timeout) as silence:
                while (response := await call.read()) is not grpc.aio.EOF:
                    self._report(response.load)
                    silence.reschedule(asyncio.get_running_loop().time() + self._settings.hang_timeout)
            return "it has ended its reports"
        except TimeoutError:
            return f"no report for {self._settings.hang_timeout:g} s"
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except grpc.aio.BaseError as error:  # the channel itself has failed
            return str(error)

    def _report(self, load: engine_pb2.Load) -> None:
        if self.lost.is_set():
            self.lost = asyncio.Event()
            self.relays = True  # it may be a newer one by now
        self.load = load
        self.reported_at = self._clock()
        if self.reported_at < self._ejected_until:
            self._changed(self)
        else:
            self._become(PodState.DRAINING if load.draining else PodState.SERVING)

    def _lose(self, reason: str) -> None:
        if not self.lost.is_set():
            self.lost.set()
            if self.state is not PodState.CONNECTING:
                log.warning("pod %s is lost: %s", self.address, reason)
                self._become(PodState.EJECTED)

    def _become(self, state: PodState) -> None:
        if state is not self.state:
            log.info("pod %s is %s", self.address, state.name.lower())
            self.state = state
        self._changed(self)
