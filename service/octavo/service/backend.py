"""What the doors ask: a pod's own engine answers it, or the gateway's router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from opentelemetry.context import Context

    from octavo.v1 import inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from, beside what it asks for.

    session: requests with the same one are better served by the same pod; empty for none.
    context: the trace that the request belongs to, with the door's own span as the current one.
    """

    session: str = ""
    context: Context | None = None


class Backend(Protocol):
    """Requests as messages of the protocol. Every method raises what `rpc.status.status_of` understands."""

    async def models(self) -> list[pb.Model]:
        """The models that requests may name; of one without a running pod, only the name is set."""
        ...

    async def model(self, name: str) -> pb.Model:
        """The facts of one model; the only one if `name` is empty. UnknownModel."""
        ...

    def generate(self, request: pb.GenerateRequest, origin: Origin) -> AsyncGenerator[pb.Delta]:
        """The output of a request, as it is made; closing the generator cancels the request.

        What must be refused is refused when the first delta is asked for.
        """
        ...

    async def tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse: ...

    async def detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse: ...
