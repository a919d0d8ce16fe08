"""`helm test`: both of the gateway's doors are open, and if there is a model, both chat."""

import json
import os
import time
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub

GRPC_ADDRESS, HTTP_ADDRESS = os.environ["GRPC_ADDRESS"], os.environ["HTTP_ADDRESS"]
PATIENCE = float(os.environ["PATIENCE"])
QUESTION = "Say hello."


def get(path: str, question: object = None) -> bytes:
    body = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(HTTP_ADDRESS + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read()


def passed(what: str, began: float) -> None:
    print(f"ok  {what} ({time.monotonic() - began:.2f} s)", flush=True)


def main() -> None:
    channel = grpc.insecure_channel(GRPC_ADDRESS)
    began = time.monotonic()
    health = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(), timeout=PATIENCE, wait_for_ready=True
    )
    assert health.status == health_pb2.HealthCheckResponse.SERVING, health
    passed(f"gRPC health at {GRPC_ADDRESS}", began)

    began = time.monotonic()
    get("/health")
    passed(f"HTTP health at {HTTP_ADDRESS}", began)

    began = time.monotonic()
    models = [model["id"] for model in json.loads(get("/v1/models"))["data"]]
    passed(f"models: {', '.join(models) or 'none yet'}", began)

    model = os.environ["MODEL"] or next(iter(models), "")
    if not model:
        print("    no model to chat with: apply an InferenceModel and test again", flush=True)
        return

    began = time.monotonic()
    prompt = pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content=QUESTION)]))
    request = pb.GenerateRequest(model=model, prompt=prompt, sampling=pb.SamplingParams(max_tokens=16))
    deltas = InferenceStub(channel).Generate(request, timeout=PATIENCE)
    text = "".join(response.delta.text for response in deltas)
    assert text, "an empty answer"
    passed(f"chat by gRPC with {model}: {text!r}", began)

    began = time.monotonic()
    messages = [{"role": "user", "content": QUESTION}]
    answer = json.loads(get("/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 16}))
    text = answer["choices"][0]["message"]["content"]
    assert text, "an empty answer"
    passed(f"chat by HTTP with {model}: {text!r}", began)


main()
