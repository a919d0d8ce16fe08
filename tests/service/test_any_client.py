"""Clients that know nothing of Octavo's Python: by reflection, and generated from the proto files alone."""

from __future__ import annotations

import asyncio
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.service.conftest import World

PROTO = Path(__file__).parents[2] / "proto"

SCRATCH_CLIENT = """
import sys
import grpc
from octavo.v1 import engine_pb2, engine_pb2_grpc, inference_pb2, inference_pb2_grpc

assert "octavo.service" not in sys.modules
channel = grpc.insecure_channel(sys.argv[1])
inference = inference_pb2_grpc.InferenceStub(channel)

submit = inference_pb2.Submit(
    prompt=inference_pb2.Prompt(
        chat=inference_pb2.Chat(messages=[inference_pb2.ChatMessage(role="user", content="Hello")])
    ),
    sampling=inference_pb2.SamplingParams(temperature=0, max_tokens=5, ignore_eos=True),
)
bad = inference_pb2.Submit()
commands = [
    inference_pb2.SessionRequest(request_id="good", submit=submit),
    inference_pb2.SessionRequest(request_id="bad", submit=bad),
]
tokens = 0
for event in inference.Session(iter(commands)):
    if event.WhichOneof("event") == "delta":
        tokens += len(event.delta.token_ids)
    elif event.WhichOneof("event") == "rejected":
        print(event.request_id, event.rejected.code, event.rejected.details[0].type_url)
print(tokens, "tokens")
load = next(engine_pb2_grpc.EngineStub(channel).WatchLoad(engine_pb2.WatchLoadRequest())).load
print(load.total_blocks > 0)
"""


async def test_reflection_lists_the_services(world: World) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = await reflect(world, request)
    assert {service.name for service in answer.list_services_response.service} == {
        "octavo.v1.Inference",
        "octavo.v1.Engine",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_a_method_can_be_called_from_its_reflected_description(world: World) -> None:
    """As grpcurl does: descriptors from the server, the request from JSON."""
    pool = await reflected_pool(world, "octavo.v1.Inference")
    method = pool.FindServiceByName("octavo.v1.Inference").FindMethodByName("Generate")
    request_type = message_factory.GetMessageClass(method.input_type)
    response_type = message_factory.GetMessageClass(method.output_type)
    call = world.channel.unary_stream(
        "/octavo.v1.Inference/Generate",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )
    request: Any = json_format.Parse(
        '{"prompt": {"text": "Hello"}, "sampling": {"temperature": 0, "maxTokens": 4, "ignoreEos": true}}',
        request_type(),
    )
    responses = [json_format.MessageToDict(response) async for response in call(request)]
    assert responses[-1]["delta"]["finishReason"] == "FINISH_REASON_LENGTH"
    assert responses[-1]["delta"]["usage"]["outputTokens"] == 4


async def test_a_client_generated_from_the_proto_alone(world: World, tmp_path: Path) -> None:
    generate_client(tmp_path)
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", runs_alone(tmp_path), world.address, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(client.communicate(), 30)
    assert client.returncode == 0
    assert output.decode().splitlines() == [
        "bad 3 type.googleapis.com/google.rpc.BadRequest",
        "5 tokens",
        "True",
    ]


def generate_client(folder: Path) -> None:
    from grpc_tools import protoc

    shutil.copytree(PROTO, folder, ignore=shutil.ignore_patterns("*_pb2*"), dirs_exist_ok=True)
    protos = map(str, sorted(folder.rglob("*.proto")))
    outputs = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    well_known = resources.files("grpc_tools") / "_proto"
    assert protoc.main(["protoc", f"-I{folder}", f"-I{well_known}", *outputs, *protos]) == 0
    (folder / "client.py").write_text(SCRATCH_CLIENT)


def runs_alone(folder: Path) -> str:
    """The scratch client, with Octavo's own source roots off the path."""
    roots = [str(PROTO.parent / root) for root in ("proto", "kernels", "engine", "service")]
    return (
        f"import sys; sys.path[:] = [{str(folder)!r}, *(p for p in sys.path if p not in {roots!r})]\n"
        + (folder / "client.py").read_text()
    )


async def reflect(
    world: World, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    call = reflection_pb2_grpc.ServerReflectionStub(world.channel).ServerReflectionInfo()
    await call.write(request)
    response = await call.read()
    assert response is not grpc.aio.EOF
    await call.done_writing()
    return response


async def reflected_pool(world: World, symbol: str) -> descriptor_pool.DescriptorPool:
    """A fresh pool with the file of a symbol and all that it imports, from the server alone."""
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    async def add(request: reflection_pb2.ServerReflectionRequest) -> None:
        response = await reflect(world, request)
        for serialized in response.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
            for name in file.dependency:
                if name not in added:
                    await add(reflection_pb2.ServerReflectionRequest(file_by_filename=name))
            if file.name not in added:
                added.add(file.name)
                pool.Add(file)

    await add(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
    return pool
