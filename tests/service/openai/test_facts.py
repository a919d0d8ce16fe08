"""What can be asked beside completions: models, health, tokens; and what comes with every answer."""

from __future__ import annotations

import pytest

from octavo.service.openai.app import create_app
from octavo.service.openai.server import HTTPServer
from tests.service.openai.conftest import USER, Door, Opening


async def test_models_are_listed(opening: Opening) -> None:
    door = await opening(context=4096, served_name="tiny")
    [model] = (await door.client.models.list()).data
    assert model.id == "tiny"
    assert model.object == "model"
    assert model.model_extra == {"max_model_len": 4096}
    assert await door.client.models.retrieve("tiny") == model


async def test_a_model_may_have_slashes_in_its_name(opening: Opening) -> None:
    door = await opening(served_name="org/tiny")
    for path in ("/v1/models/org/tiny", "/v1/models/org%2Ftiny"):
        assert (await door.http.get(path)).json()["id"] == "org/tiny"


async def test_health_version_and_metrics(door: Door) -> None:
    health = await door.http.get("/health")
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (await door.http.get("/version")).json()["version"]
    metrics = await door.http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    head = await door.http.head("/health")
    assert (head.status_code, head.content) == (200, b"")


async def test_a_text_becomes_tokens_and_a_text_again(opening: Opening) -> None:
    door = await opening(context=4096, served_name="tiny")
    told = (await door.post("/tokenize", {"model": "tiny", "prompt": "Pages of keys"})).json()
    assert told["count"] == len(told["tokens"])
    assert told["max_model_len"] == 4096
    text = (await door.post("/detokenize", {"tokens": told["tokens"]})).json()
    assert text == {"prompt": "Pages of keys"}


async def test_a_chat_becomes_tokens(door: Door) -> None:
    tokens = (await door.post("/tokenize", {"messages": USER})).json()["tokens"]
    text = (await door.post("/detokenize", {"tokens": tokens})).json()["prompt"]
    assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": USER}, "prompt"),
        ("/tokenize", {"messages": [{"role": "owl", "content": "x"}]}, "messages[0].role"),
        ("/tokenize", {"messages": USER, "add_special_tokens": True}, "add_special_tokens"),
        ("/detokenize", {"tokens": [1, 384]}, "tokens[1]"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ],
)
async def test_bad_tokens_are_refused_by_name(door: Door, path: str, body: object, param: str) -> None:
    response = await door.post(path, body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_a_request_id_comes_back_or_is_made(door: Door) -> None:
    given = await door.http.get("/health", headers={"x-request-id": "abc-123"})
    assert given.headers["x-request-id"] == "abc-123"
    made = [(await door.http.get("/health")).headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    long = await door.http.get("/health", headers={"x-request-id": "x" * 129})
    assert len(long.headers["x-request-id"]) < 129


async def test_health_says_why_it_is_not(door: Door) -> None:
    app = create_app(None, metrics=None, health=lambda: "no pod is there")  # type: ignore[arg-type]
    server = HTTPServer("127.0.0.1", 0)
    await server.start(app)
    response = await door.http.get(f"http://{server.address}/health")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["message"].startswith("no pod is there")
    await server.stop(1)
