"""Refusals that only the server knows, and the place of a refused field in the client's message."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from octavo.engine import InvalidRequest, OctavoError, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.v1 import inference_pb2 as pb


class UnknownModel(InvalidRequest):
    """The request is for a model that this server does not serve."""


class UnknownRequest(InvalidRequest):
    """No request of the session has this id, or it has ended and is not held."""


class DuplicateRequest(InvalidRequest):
    """A request of the session that runs or is held has this id already."""


class TooManyRequests(InvalidRequest):
    """The session has as many running and held requests as one session may have."""


class MessageTooLarge(InvalidRequest):
    """A request message is larger than the server takes."""


class NotHeld(InvalidRequest):
    """The request exists, but cannot be continued."""


class Unavailable(OctavoError):
    """Nobody can serve the request now; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(f"{message}; try again in {retry_after:g} s")
        self.retry_after = retry_after


class Relayed(OctavoError):
    """What another server answered, to be passed on unchanged."""

    def __init__(self, status: pb.Status) -> None:
        super().__init__(status.message)
        self.status = status


@contextmanager
def within(path: str) -> Iterator[None]:
    """Puts `path` before the field names of an InvalidRequest: the fields of a message inside another one."""
    try:
        yield
    except InvalidRequest as error:
        moved = (Violation(f"{path}.{v.field}", v.value, v.rule) for v in error.violations)
        raise type(error)(*moved) from None
