"""Errors as the protocol tells them: one place that turns each into a google.rpc.Status with its details."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, RetryInfo

from octavo.engine import EngineStopped, InvalidRequest, QueueFull, Violation
from octavo.service.rpc.refusals import (
    DuplicateRequest,
    MessageTooLarge,
    NotHeld,
    Relayed,
    TooManyRequests,
    Unavailable,
    UnknownModel,
    UnknownRequest,
)
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

# The first class that fits decides, so a special case stands before the general one.
CODES: tuple[tuple[type[Exception], int], ...] = (
    (UnknownModel, code_pb2.NOT_FOUND),
    (UnknownRequest, code_pb2.NOT_FOUND),
    (DuplicateRequest, code_pb2.ALREADY_EXISTS),
    (TooManyRequests, code_pb2.RESOURCE_EXHAUSTED),
    (MessageTooLarge, code_pb2.RESOURCE_EXHAUSTED),
    (NotHeld, code_pb2.FAILED_PRECONDITION),
    (InvalidRequest, code_pb2.INVALID_ARGUMENT),
    (QueueFull, code_pb2.RESOURCE_EXHAUSTED),
    (EngineStopped, code_pb2.UNAVAILABLE),
    (Unavailable, code_pb2.UNAVAILABLE),
)
INTERNAL_MESSAGE = "internal error; the server's log tells more"


def status_of(error: Exception) -> pb.Status:
    """Code, message and details. What was not raised on purpose is INTERNAL, and its text stays here."""
    if isinstance(error, Relayed):
        return error.status
    code = next((code for kind, code in CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    message = INTERNAL_MESSAGE if code == code_pb2.INTERNAL else str(error)
    return pb.Status(code=code, message=message, details=map(_packed, _details(error)))


def _details(error: Exception) -> list[Message]:
    if isinstance(error, InvalidRequest):
        return [BadRequest(field_violations=map(_field_violation, error.violations))]
    if isinstance(error, QueueFull | Unavailable):
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        return [RetryInfo(retry_delay=delay)]
    return []


def _field_violation(violation: Violation) -> BadRequest.FieldViolation:
    shown = str(violation).removeprefix(f"{violation.field}: ")
    return BadRequest.FieldViolation(field=violation.field, description=shown)


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
