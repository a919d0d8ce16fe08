"""Requests to one of many pods, and on to another one when that is lost: the client's stream goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from opentelemetry.context import get_current

from octavo.engine.params import MAX_OUTPUTS
from octavo.service.gateway.link import Links
from octavo.service.gateway.picker import Query
from octavo.service.gateway.placement import Placement
from octavo.service.gateway.pod import PodState
from octavo.service.gateway.pool import RETRY_SOON
from octavo.service.gateway.progress import Progress
from octavo.service.gateway.retry import RetryBudget, RetrySettings
from octavo.service.gateway.upstream import (
    LOST,
    Left,
    check_there,
    ended_when_lost,
    status_of_call,
    trouble_of_call,
    was_lost,
)
from octavo.service.rpc.refusals import Relayed, Unavailable
from octavo.service.telemetry.context import to_command, to_metadata
from octavo.service.telemetry.passage import GatewayTelemetry
from octavo.service.telemetry.setup import Telemetry
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from octavo.service.backend import Origin
    from octavo.service.gateway.direct import DirectCall
    from octavo.service.gateway.directory import Directory
    from octavo.service.gateway.link import Inbox
    from octavo.service.gateway.pool import Pool
    from octavo.service.gateway.upstream import Trouble
    from octavo.service.telemetry.passage import Passage

log = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4
"""Of a prompt, about: good enough for a pick."""
SEED_BITS = 64


class Piece(NamedTuple):
    """A part of the output: the delta, and a whole GenerateResponse with it as bytes, to be passed on."""

    response: bytes
    delta: pb.Delta


class Router:
    """A `Backend` over the pods of all models."""

    def __init__(
        self,
        directory: Directory,
        settings: RetrySettings | None = None,
        random: Random | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """telemetry: of the process; by default one of this router alone."""
        self.telemetry = GatewayTelemetry(
            telemetry or Telemetry.start("octavo-gateway"),
            lambda: [pool.snapshot() for pool in directory.pools()],
        )
        self.directory = directory
        self.settings = settings or RetrySettings()
        self.budget = RetryBudget(self.settings)
        self._random = random or Random()
        self._links = Links()
        self._refusal: Unavailable | None = None
        self._num_running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def began(self) -> None:
        """A request begins. Unavailable if none may any longer. Goes with `ended`."""
        if self._refusal is not None:
            raise self._refusal
        self._num_running += 1
        self._idle.clear()

    def ended(self) -> None:
        self._num_running -= 1
        if not self._num_running:
            self._idle.set()

    async def drain(self, grace: float) -> None:
        """Refuses new requests from now on, and gives running ones `grace` seconds."""
        self._refusal = Unavailable("the gateway is draining", RETRY_SOON)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)

    async def close(self) -> None:
        """Ends what still runs."""
        await self._links.close()

    @property
    def draining(self) -> bool:
        return self._refusal is not None

    @contextlib.contextmanager
    def _request(self) -> Iterator[None]:
        self.began()
        try:
            yield
        finally:
            self.ended()

    def placement(self, pool: Pool, query: Query, passage: Passage | None = None) -> Placement:
        return Placement(pool, query, self.settings, self.budget, passage)

    def fix_seed(self, sampling: pb.SamplingParams) -> None:
        """Chooses the seed where the client leaves it open, so that another pod draws the same tokens.

        Beams are not drawn, and take none.
        """
        if not sampling.HasField("seed") and not sampling.beam_width:
            sampling.seed = self._random.getrandbits(SEED_BITS)

    async def generate(self, request: pb.GenerateRequest, origin: Origin) -> AsyncGenerator[pb.Delta]:
        async with contextlib.aclosing(self.pieces(request, origin)) as pieces:
            async for piece in pieces:
                yield piece.delta

    async def pieces(self, request: pb.GenerateRequest, origin: Origin) -> AsyncGenerator[Piece]:
        """The output of a request, as it is made; closing the generator cancels the request.

        Each piece is handed on before the next one is read: what a pod has told is never lost, and a slow
        reader slows its own sequence.
        """
        pool = self.directory.pool(request.model)
        with self._request(), self.telemetry.passage(pool.model, request, origin.context) as passage:
            message = pb.GenerateRequest()
            message.CopyFrom(request)
            message.model = ""  # a pod may know its model by another name
            self.fix_seed(message.sampling)
            query = Query(
                session=origin.session,
                prompt_tokens=prompt_tokens(request.prompt),
                sequences=num_sequences(request.sampling),
            )
            progress = Progress(request)
            placement = self.placement(pool, query, passage)
            pick = await placement.first()
            while True:
                before = progress.num_tokens
                trace = to_command(passage.arrives(pick.pod.address, before))
                trouble: Trouble | None = None
                finished = False
                inbox: Inbox | DirectCall | None = None
                try:
                    inbox = await self._links.begin(pick, message, trace)
                    while not finished:
                        response = await inbox.read()
                        delta = pb.GenerateResponse.FromString(response).delta
                        if not progress.begun:
                            passage.first_output()
                        if not progress.take(delta):
                            continue
                        if progress.moved:
                            response = pb.GenerateResponse(delta=delta).SerializeToString()
                        if finished := progress.ended:
                            passage.finished(progress.finish_reasons, delta.usage)
                            placement.succeeded()
                        yield Piece(response, delta)
                    return
                except Left as left:
                    trouble = left.trouble
                finally:
                    if inbox is not None:
                        inbox.close(finished=finished)
                    pick.done(failed=trouble is not None and trouble.failed)
                told = progress.num_tokens
                log.info("after %d tokens a request leaves %s: %s", told, pick.pod.address, trouble)
                passage.leaves(trouble.reason, trouble.status)
                pick = await placement.next(
                    pick.pod.address, trouble, progress=told > before, begun=progress.begun
                )
                progress.moves()
                progress.resume(message)

    async def models(self) -> list[pb.Model]:
        return [_facts(pool) or pb.Model(name=pool.model) for pool in self.directory.pools()]

    async def model(self, name: str) -> pb.Model:
        """Of a model without a pod: waits for one, as any request does."""
        pool = self.directory.pool(name)
        if (known := _facts(pool)) is not None:
            return known
        answer = await self._ask(pool, "GetModel", pb.GetModelRequest())
        answer.model.name = pool.model
        return answer.model  # type: ignore[no-any-return]

    async def tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        return await self._passed_on("Tokenize", request)  # type: ignore[no-any-return]

    async def detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        return await self._passed_on("Detokenize", request)  # type: ignore[no-any-return]

    async def _passed_on(self, method: str, request: pb.TokenizeRequest | pb.DetokenizeRequest) -> Any:
        pool = self.directory.pool(request.model)
        message = type(request)()
        message.CopyFrom(request)  # type: ignore[arg-type]
        message.model = ""
        return await self._ask(pool, method, message)

    async def _ask(self, pool: Pool, method: str, request: Any) -> Any:
        """A question that any pod answers alike."""
        with self._request():
            placement = self.placement(pool, Query())
            pick = await placement.first()
            while True:
                trouble: Trouble | None = None
                try:
                    check_there(pick)
                    call = getattr(pick.pod.inference, method)(request, metadata=to_metadata(get_current()))
                    with ended_when_lost(call, pick):
                        answer = await call
                    placement.succeeded()
                    return answer
                except grpc.aio.AioRpcError as error:
                    trouble = trouble_of_call(error)
                    if trouble is None:
                        raise Relayed(status_of_call(error)) from None
                except asyncio.CancelledError:
                    if not was_lost(pick):
                        raise
                    trouble = LOST
                except Left as left:
                    trouble = left.trouble
                finally:
                    pick.done(failed=trouble is not None and trouble.failed)
                pick = await placement.next(pick.pod.address, trouble, progress=False, begun=False)


def prompt_tokens(prompt: pb.Prompt) -> int:
    """About how many tokens a prompt has."""
    if prompt.HasField("token_ids"):
        return len(prompt.token_ids.ids)
    return prompt.ByteSize() // BYTES_PER_TOKEN


def num_sequences(sampling: pb.SamplingParams) -> int:
    """How many sequences a request is computed as; one that a pod will refuse counts as one that it takes."""
    wanted = sampling.beam_width or sampling.best_of or sampling.n
    return min(max(wanted, 1), MAX_OUTPUTS)


def _facts(pool: Pool) -> pb.Model | None:
    """What a pod that takes requests has told about the model, under the name that requests give it."""
    for pod in pool.pods:
        if pod.state is PodState.SERVING and pod.model is not None:
            facts = pb.Model()
            facts.CopyFrom(pod.model)
            facts.name = pool.model
            return facts
    return None
