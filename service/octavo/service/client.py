"""A client of the protocol: what `octavo chat`, `octavo generate` and the demo are made of."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status as RpcStatus

from octavo.service.failures import ServerError
from octavo.v1 import engine_pb2, inference_pb2
from octavo.v1.engine_pb2_grpc import EngineStub
from octavo.v1.inference_pb2_grpc import InferenceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 10.0
"""Seconds for a server to answer a question that costs it nothing."""
DETAILS_TRAILER = "grpc-status-details-bin"


def error_of_status(status: inference_pb2.Status | RpcStatus) -> ServerError:
    """A status other than OK, with its details."""
    bad = BadRequest()
    found: list[tuple[str, str]] = []
    for detail in status.details:
        if detail.Unpack(bad):
            found += ((violation.field, violation.description) for violation in bad.field_violations)
    return ServerError(code_pb2.Code.Name(status.code), status.message, tuple(found))


def error_of_call(error: grpc.aio.AioRpcError) -> ServerError:
    """The same of a call that failed."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_TRAILER and isinstance(value, bytes):
            return error_of_status(RpcStatus.FromString(value))
    return ServerError(error.code().name, error.details() or "")


class Client:
    """Calls of one server. Every method raises ServerError."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._inference: Any = InferenceStub(self._channel)
        self._engine: Any = EngineStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def model(self) -> inference_pb2.Model:
        """The model that is served."""
        request = inference_pb2.GetModelRequest()
        try:
            answer = await self._inference.GetModel(request, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from None
        return answer.model  # type: ignore[no-any-return]

    async def load(self) -> engine_pb2.Load:
        """The load now."""
        call = self._engine.WatchLoad(engine_pb2.WatchLoadRequest(), timeout=PATIENCE)
        try:
            answer = await call.read()
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from None
        finally:
            call.cancel()
        return answer.load  # type: ignore[no-any-return]

    async def generate(
        self, prompt: inference_pb2.Prompt, sampling: inference_pb2.SamplingParams
    ) -> AsyncIterator[inference_pb2.Delta]:
        request = inference_pb2.GenerateRequest(prompt=prompt, sampling=sampling)
        try:
            async for response in self._inference.Generate(request):
                yield response.delta
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from None

    def conversation(self) -> Conversation:
        return Conversation(self._inference.Session())


class Conversation:
    """A chat over one Session: each turn continues the one before, so only its own tokens are computed."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._ids = map("turn-{}".format, itertools.count(1))
        self._current: str | None = None
        self._previous: str | None = None

    async def say(
        self, messages: inference_pb2.Chat, sampling: inference_pb2.SamplingParams
    ) -> AsyncIterator[inference_pb2.Delta]:
        """Adds messages, streams the reply. After an error or `cancel`, the chat is as it was before."""
        prompt = inference_pb2.Prompt(chat=messages)
        name = self._current = next(self._ids)
        request = inference_pb2.SessionRequest(request_id=name)
        if self._previous is None:
            request.submit.CopyFrom(inference_pb2.Submit(prompt=prompt, sampling=sampling, hold=True))
        else:
            request.continuation.CopyFrom(
                inference_pb2.Continue(
                    from_request_id=self._previous,
                    prompt=prompt,
                    sampling=sampling,
                    hold=True,
                    keep_parent=True,
                )
            )
        try:
            await self._call.write(request)
            async for delta in self._deltas(name):
                yield delta
                if delta.finish_reason and self._current == name:
                    await self._advance(name)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from None
        finally:
            self._current = None

    async def cancel(self) -> None:
        """Ends the reply that is being streamed: its last delta says so."""
        if self._current is not None:
            await self._cancel(self._current)
            self._current = None

    async def restart(self) -> None:
        """Forgets what was said."""
        if self._previous is not None:
            await self._cancel(self._previous)
            self._previous = None

    async def close(self) -> None:
        self._call.cancel()

    async def _deltas(self, name: str) -> AsyncIterator[inference_pb2.Delta]:
        async for response in self._call:
            if response.request_id != name:
                continue
            match response.WhichOneof("event"):
                case "delta":
                    yield response.delta
                    if response.delta.finish_reason:
                        return
                case "rejected":
                    raise error_of_status(response.rejected)
                case "failed":
                    raise error_of_status(response.failed)

    async def _advance(self, name: str) -> None:
        if self._previous is not None:
            await self._cancel(self._previous)
        self._previous = name

    async def _cancel(self, name: str) -> None:
        await self._call.write(inference_pb2.SessionRequest(request_id=name, cancel=inference_pb2.Cancel()))
