"""A pod's HTTP door on a real port over a tiny model, and the `openai` package as its client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import openai
import pytest

from tests.service.conftest import Serving, World

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "extra_body": {"ignore_eos": True}}
USER = [{"role": "user", "content": "Hello"}]


@dataclass(frozen=True)
class Door:
    """A pod with both doors, and two clients of the HTTP one: OpenAI's, and a plain one for what is odd."""

    world: World
    client: openai.AsyncOpenAI
    http: openai.DefaultAsyncHttpxClient

    async def post(self, path: str, body: Any, **headers: str) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.http.post(path, content=content, headers=given)


Opening = Callable[..., Awaitable[Door]]


@pytest.fixture
async def opening(serving: Serving) -> AsyncIterator[Opening]:
    """Opens a pod's doors; keywords are those of `serving`."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Door:
            world = await serving(http=True, http_port=0, **settings)
            url = world.server.http_url
            assert url is not None
            # To read the certificates of the world's authorities takes longer than most tests.
            plain = partial(openai.DefaultAsyncHttpxClient, verify=False)
            client = openai.AsyncOpenAI(
                base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=plain()
            )
            http = plain(base_url=url, timeout=30)
            await stack.enter_async_context(client)
            await stack.enter_async_context(http)
            return Door(world, client, http)

        yield start


@pytest.fixture
async def door(opening: Opening) -> Door:
    return await opening(served_name="tiny")
