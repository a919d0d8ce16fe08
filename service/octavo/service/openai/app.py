"""The ASGI application, and what it tells of itself and its models."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from octavo.service.openai.completions import Completions
from octavo.service.openai.errors import DEFAULT_RETRY_AFTER
from octavo.service.openai.routes import Routes
from octavo.service.openai.tokens import Tokens
from octavo.service.rpc.refusals import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from octavo.service.backend import Backend
    from octavo.service.openai.exchange import Exchange
    from octavo.v1 import inference_pb2 as pb

MODEL = "/v1/models/"
"""A model's name can have slashes, so it is all that follows."""
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
MAX_BODY_SIZE = 4 * 1024 * 1024


def create_app(
    backend: Backend,
    *,
    metrics: Callable[[], Awaitable[bytes]],
    health: Callable[[], str | None],
    max_body_size: int = MAX_BODY_SIZE,
) -> Routes:
    """An ASGI application: the OpenAI API over `backend`.

    metrics: the page of /metrics, in Prometheus' text format.
    health: why no request can be served now, if none can.
    max_body_size: in bytes; a larger one is refused with 413.
    """
    completions, tokens, facts = Completions(backend), Tokens(backend), Facts(backend, metrics, health)
    return Routes(
        {
            ("POST", "/v1/chat/completions"): completions.chat,
            ("POST", "/v1/completions"): completions.complete,
            ("GET", "/v1/models"): facts.models,
            ("GET", MODEL): facts.model,
            ("POST", "/tokenize"): tokens.tokenize,
            ("POST", "/detokenize"): tokens.detokenize,
            ("GET", "/health"): facts.health,
            ("GET", "/metrics"): facts.metrics,
            ("GET", "/version"): facts.version,
        },
        max_body_size,
    )


class Facts:
    """What can be asked without a body."""

    def __init__(
        self,
        backend: Backend,
        metrics: Callable[[], Awaitable[bytes]],
        health: Callable[[], str | None],
    ) -> None:
        self._backend = backend
        self._metrics = metrics
        self._health = health
        self._created = int(time.time())

    async def models(self, exchange: Exchange) -> None:
        data = [self._as_json(model) for model in await self._backend.models()]
        await exchange.respond_json({"object": "list", "data": data})

    async def model(self, exchange: Exchange) -> None:
        name = exchange.path.removeprefix(MODEL)
        await exchange.respond_json(self._as_json(await self._backend.model(name)))

    def _as_json(self, model: pb.Model) -> dict[str, Any]:
        """`max_model_len` is vLLM's, and null for a model without a running pod."""
        return {
            "id": model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "octavo",
            "max_model_len": model.max_model_len or None,
        }

    async def health(self, exchange: Exchange) -> None:
        if why := self._health():
            raise Unavailable(why, DEFAULT_RETRY_AFTER)
        await exchange.respond_json({"status": "ok"})

    async def metrics(self, exchange: Exchange) -> None:
        await exchange.respond(await self._metrics(), content_type=PROMETHEUS_TEXT)

    async def version(self, exchange: Exchange) -> None:
        await exchange.respond_json({"version": version("octavo")})
