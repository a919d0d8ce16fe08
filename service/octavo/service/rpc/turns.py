"""What a session of a pod and one of a gateway have in common: the rules for ids, and how commands end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from octavo.engine import InvalidRequest, Violation
from octavo.service.rpc.refusals import DuplicateRequest, NotHeld, TooManyRequests, UnknownRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MAX_REQUESTS = 1024
"""Running and held ones of one session: a client that forgets to release what it holds is told so."""
MAX_ID_LENGTH = 128


class AnyTurn(Protocol):
    """One request of a session. It runs, is held, or has left the session."""

    @property
    def running(self) -> bool: ...

    @property
    def held(self) -> bool: ...


T = TypeVar("T", bound=AnyTurn)
C = TypeVar("C")


class Turns(Generic[T]):
    """The running and held requests of one session, by the client's ids."""

    def __init__(self) -> None:
        self._turns: dict[str, T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._turns.values()))

    def get(self, name: str) -> T | None:
        return self._turns.get(name)

    def check_new(self, name: str) -> None:
        """Whether a request may begin under this id. DuplicateRequest or TooManyRequests."""
        if name in self._turns:
            rule = "must not be the id of a running or held request of this session"
            raise DuplicateRequest(Violation("request_id", name, rule))
        if len(self._turns) >= MAX_REQUESTS:
            rule = f"must be one of at most {MAX_REQUESTS} running and held requests of a session"
            raise TooManyRequests(Violation("request_id", name, rule))

    def add(self, name: str, turn: T) -> None:
        self._turns[name] = turn

    def forget(self, name: str, turn: T) -> None:
        """The id is free again, unless another request has it by now."""
        if self._turns.get(name) is turn:
            del self._turns[name]

    def cancellable(self, name: str) -> T:
        """The running or held request that a Cancel is about. UnknownRequest."""
        turn = self._turns.get(name)
        if turn is None:
            raise unknown_request(name)
        return turn

    def held(self, name: str) -> T:
        """The held request that a Continue goes on from. UnknownRequest or NotHeld."""
        turn = self._turns.get(name)
        if turn is None:
            rule = "must be the id of a held request of this session"
            raise UnknownRequest(Violation("from_request_id", name, rule))
        if turn.running:
            raise NotHeld(Violation("from_request_id", name, "must be of a finished request; it is running"))
        if not turn.held:
            raise NotHeld(Violation("from_request_id", name, "must be of a held request; its hold has ended"))
        return turn


def check_request_id(value: str) -> None:
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise InvalidRequest(Violation("request_id", value, f"must have 1 to {MAX_ID_LENGTH} characters"))


def unknown_request(name: str) -> UnknownRequest:
    return UnknownRequest(Violation("request_id", name, "must be of a running or a held request"))


def no_command() -> InvalidRequest:
    return InvalidRequest(Violation("command", None, "is required: one of submit, continuation, cancel"))


async def commands_until(stopped: asyncio.Event, commands: AsyncIterator[C]) -> AsyncIterator[C]:
    """The commands up to the client's last one, or until `stopped` is set."""
    end = asyncio.ensure_future(stopped.wait())
    iterator = aiter(commands)
    try:
        while True:
            command = asyncio.ensure_future(anext(iterator, None))
            try:
                await asyncio.wait({command, end}, return_when=asyncio.FIRST_COMPLETED)
                if not command.done() or (read := command.result()) is None:
                    return
            finally:
                command.cancel()
            yield read
    finally:
        end.cancel()
