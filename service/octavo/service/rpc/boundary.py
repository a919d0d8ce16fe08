"""The boundary of errors: what is raised inside a method of our services leaves as a gRPC status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from octavo.engine import InvalidRequest, OctavoError, Violation
from octavo.service.rpc.refusals import MessageTooLarge
from octavo.service.rpc.status import status_of
from octavo.service.rpc.wire import parse
from octavo.v1 import engine_pb2, gateway_pb2, inference_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

log = logging.getLogger(__name__)

Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]
CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands for a message that could not be read; gRPC would end the call with INTERNAL and no reason."""

    error: InvalidRequest


class Boundary(grpc.aio.ServerInterceptor):
    """Reads the requests of our services strictly, and turns errors into statuses with details.

    A stream's handler finds a `Malformed` among its requests and answers it as it sees fit; a call with
    one request is refused here.
    """

    def __init__(self, max_message_size: int | None = None, passed_on: Container[str] = ()) -> None:
        """max_message_size: of a request in bytes, if gRPC takes larger ones, for `Engine.Relay`.

        passed_on: paths of methods whose responses are bytes already and are not written anew.
        """
        self._max_message_size = max_message_size
        self._passed_on = passed_on

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        message_type = REQUEST_TYPES.get(handler_call_details.method)
        if handler is None or message_type is None:
            return handler
        kind = _kind(handler)
        # A relayed request is one that a gateway has taken, in an envelope.
        limit = None if message_type is engine_pb2.RelayRequest else self._max_message_size
        changed: dict[str, Any] = {
            kind: _guarded(getattr(handler, kind)),
            "request_deserializer": _reader(message_type, limit),
        }
        if handler_call_details.method in self._passed_on:
            changed["response_serializer"] = None
        return handler._replace(**changed)


def writer(context: grpc.aio.ServicerContext[Any, Any]) -> Callable[[Any], Awaitable[None]]:
    """Writes to a client. If that is gone, the writing task is cancelled, as gRPC will cancel the call."""

    async def write(message: Any) -> None:
        await _sent(context.write(message))

    return write


async def shared_writer(
    context: grpc.aio.ServicerContext[Any, Any],
) -> Callable[[Any], Awaitable[None]]:
    """A `writer` for several tasks of a call, which may fail while one of them is writing.

    The headers go first. gRPC would send them with the first message; while that is on its way, it would send
    them again with the status of a failure, which is an error, and the client would never hear of either.
    """
    await _sent(context.send_initial_metadata(()))
    return writer(context)


async def _sent(sending: Awaitable[None]) -> None:
    try:
        await sending
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _request_types() -> dict[str, type[Message]]:
    found: dict[str, type[Message]] = {}
    for module in (inference_pb2, engine_pb2, gateway_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                found[path] = getattr(module, method.input_type.name)
    return found


REQUEST_TYPES = _request_types()


def _kind(handler: Any) -> str:
    request, response = (
        "stream" if streaming else "unary"
        for streaming in (handler.request_streaming, handler.response_streaming)
    )
    return f"{request}_{response}"


def _reader(message_type: type[Message], limit: int | None) -> Callable[[bytes], Message | Malformed]:
    def read(data: bytes) -> Message | Malformed:
        try:
            if limit is not None and len(data) > limit:
                rule = f"must not be larger than {limit} bytes"
                raise MessageTooLarge(Violation(message_type.DESCRIPTOR.name, f"{len(data)} bytes", rule))
            return parse(message_type, data)
        except InvalidRequest as error:
            return Malformed(error)

    return read


def _guarded(behaviour: Behaviour) -> Behaviour:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        failure: Exception
        try:
            if isinstance(request, Malformed):
                raise request.error
            return await behaviour(request, context)
        except OctavoError as error:
            failure = error
        except (grpc.RpcError, grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except Exception as error:
            log.exception("unexpected error in %s", getattr(behaviour, "__qualname__", behaviour))
            failure = error
        status = status_of(failure)
        trailer = (("grpc-status-details-bin", status.SerializeToString()),)
        return await context.abort(CODES[status.code], status.message, trailer)

    return guarded
