"""Errors in OpenAI's shape: one place that turns each into an HTTP status and a body."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, RetryInfo

from octavo.engine import OctavoError
from octavo.service.rpc.status import status_of

if TYPE_CHECKING:
    from collections.abc import Callable

# As google/rpc/code.proto maps them; every other code is an error of ours.
HTTP_STATUS = {
    code_pb2.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    code_pb2.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    code_pb2.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    code_pb2.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    code_pb2.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    code_pb2.NOT_FOUND: HTTPStatus.NOT_FOUND,
    code_pb2.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    code_pb2.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    code_pb2.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    code_pb2.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    code_pb2.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
# What the `openai` package and its like look at beside the status.
TYPES = {
    HTTPStatus.TOO_MANY_REQUESTS: ("rate_limit_error", "rate_limit_exceeded"),
    HTTPStatus.SERVICE_UNAVAILABLE: ("service_unavailable_error", "service_unavailable"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("invalid_request_error", "request_too_large"),
}
RETRIED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
DEFAULT_RETRY_AFTER = 1.0
"""Seconds after which to try again where the error itself does not say."""
BODY = "body"
"""Stands for the whole body where a field's name would stand."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as the client gets it."""

    status: int
    body: bytes
    headers: dict[str, str]


class Refused(OctavoError):
    """An error that is already in the client's terms."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.body.decode())
        self.refusal = refusal


def refused(status: HTTPStatus, message: str, headers: dict[str, str] | None = None) -> Refused:
    """For what only HTTP knows: a path, a method, a size or a type that is not for us."""
    return Refused(Refusal(status, _body(status, message), headers or {}))


def refusal(error: Exception, parameter: Callable[[str], str] = str) -> Refusal:
    """Any error, as `rpc.status.status_of` understands it.

    parameter: the name that the client gave to a field of the protocol's request.
    """
    if isinstance(error, Refused):
        return error.refusal
    told = status_of(error)
    status = HTTP_STATUS.get(told.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    message, param, bad, retry = told.message, None, BadRequest(), RetryInfo()
    retry_after = DEFAULT_RETRY_AFTER
    for detail in told.details:
        if detail.Unpack(bad) and bad.field_violations:
            # One parameter can be two fields, which break the same rule.
            named = list(dict.fromkeys((parameter(v.field), v.description) for v in bad.field_violations))
            message = "; ".join(f"{name}: {description}" for name, description in named)
            param = named[0][0] if named[0][0] != BODY else None
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    code = "model_not_found" if status == HTTPStatus.NOT_FOUND and param == "model" else None
    headers = {"retry-after": str(max(1, math.ceil(retry_after)))} if status in RETRIED else {}
    return Refusal(status, _body(status, message, param, code), headers)


def _body(status: HTTPStatus, message: str, param: str | None = None, code: str | None = None) -> bytes:
    kind, usual_code = TYPES.get(status, (None, None))
    if kind is None:
        kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code or usual_code}
    return json.dumps({"error": error}).encode()
