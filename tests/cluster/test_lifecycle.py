"""From apply to delete: ready, chat, scale with the load, sleep, wake, and nothing left behind."""

from __future__ import annotations

import asyncio
import json

import openai

from octavo.service.client import Client
from octavo.v1 import inference_pb2 as pb
from tests.cluster.conftest import Deploy, Installation, inference_model
from tests.cluster.kubectl import Kubectl, condition, is_ready, status

SCALING = {
    "minReplicas": 1,
    "maxReplicas": 3,
    "targetKVUtilization": 0.2,
    "targetWaitingTokens": 64,
    "scaleDownStabilizationSeconds": 5,
}


async def test_a_model_serves_through_both_doors(installation: Installation, deploy: Deploy) -> None:
    await deploy("smollm2")
    question = pb.Chat(messages=[pb.ChatMessage(role="user", content="Name a colour.")])
    greedy = pb.SamplingParams(temperature=0, max_tokens=12)
    async with Client(installation.grpc_address) as client:
        assert (await client.model()).name == "smollm2"
        conversation = client.conversation()
        by_grpc = "".join([delta.text async for delta in conversation.say(question, greedy)])
        await conversation.close()
    async with openai.AsyncOpenAI(base_url=f"http://{installation.http_address}/v1", api_key="none") as http:
        assert [model.id async for model in http.models.list()] == ["smollm2"]
        answer = await http.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "Name a colour."}],
            temperature=0,
            max_tokens=12,
        )
    assert by_grpc
    assert answer.choices[0].message.content == by_grpc


async def test_the_resource_tells_what_kubectl_shows(installation: Installation, deploy: Deploy) -> None:
    kubectl = await deploy("shown")
    header, row = (await kubectl("get", "oim")).splitlines()
    assert [title.strip() for title in header.split("  ") if title] == [
        "NAME", "READY", "REPLICAS", "KV %", "MODEL", "AGE",
    ]  # fmt: skip
    assert row.split()[:3] == ["shown", "True", "1"]
    status = (await kubectl.get("oim", "shown"))["status"]
    assert status["readyReplicas"] == 1
    assert status["endpoints"]


RESOURCE = "/apis/serving.octavo.dev/v1alpha1/namespaces/{namespace}/inferencemodels"


async def test_load_scales_up_idleness_to_zero_and_a_request_wakes(
    installation: Installation, deploy: Deploy
) -> None:
    kubectl = await deploy("elastic", scaling=SCALING)
    async with installation.doors("elastic") as doors:
        traffic = doors.start(60, max_tokens=200)
        await kubectl.until("oim/elastic", lambda oim: status(oim).get("readyReplicas") == 3, 120)
        for task in traffic.tasks:
            task.cancel()
        await asyncio.gather(*traffic.tasks, return_exceptions=True)
        # Arrivals are averaged over a minute.
        await kubectl.until("oim/elastic", lambda oim: status(oim).get("replicas") == 1, 150)

        await kubectl.patch(
            "oim/elastic", {"spec": {"scaling": {"minReplicas": 0, "scaleToZeroAfter": "10s"}}}
        )
        await kubectl.until("oim/elastic", lambda oim: status(oim).get("replicas") == 0, 90)
        woken = await doors.start(1, max_tokens=8).ended(90)
        assert [(stream.finished, stream.error) for stream in woken] == [(True, None)]
        oim = await kubectl.until("oim/elastic", is_ready, 30)
        assert oim["status"]["replicas"] == 1

    events = await kubectl.list("events.v1.events.k8s.io")
    scaled = [event["note"] for event in events if event["regarding"]["kind"] == "InferenceModel"]
    assert any("1 → 3" in note or "2 → 3" in note for note in scaled), scaled
    assert any("→ 0" in note for note in scaled), scaled
    assert any("0 → 1" in note for note in scaled), scaled


async def test_a_deleted_model_leaves_nothing_behind(installation: Installation, deploy: Deploy) -> None:
    kubectl = await deploy("brief")
    kinds = "deployments,replicasets,pods,services,endpointslices,poddisruptionbudgets,persistentvolumeclaims"
    selected = ("-l", "serving.octavo.dev/model=brief")
    assert await kubectl.list(kinds, *selected)
    await kubectl("delete", "oim", "brief", "--timeout=60s")
    async with asyncio.timeout(90):
        while left := await kubectl.list(kinds + ",serviceaccounts", *selected):
            await asyncio.sleep(0.5)
    assert not left


async def test_kubectl_scale_takes_over_from_the_autoscaler(
    installation: Installation, deploy: Deploy
) -> None:
    kubectl = await deploy("manual", scaling={"minReplicas": 1, "maxReplicas": 3})
    await kubectl("scale", "oim/manual", "--replicas=2")
    oim = await kubectl.until("oim/manual", lambda oim: status(oim).get("readyReplicas") == 2, 90)
    assert condition(oim, "ScalingActive")[0] == "False"
    path = f"{RESOURCE.format(namespace=kubectl.namespace)}/manual/scale"
    scale = json.loads(await kubectl("get", "--raw", path))
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 2)
    assert scale["status"]["selector"]
    await asyncio.sleep(6)  # reconciled several times since
    assert (await kubectl.get("deployment", "manual"))["spec"]["replicas"] == 2


async def test_nonsense_is_refused_at_the_api_server(installation: Installation, kubectl: Kubectl) -> None:
    model = inference_model("bad", scaling={"minReplicas": 3, "maxReplicas": 1})
    refusal = await _refused(kubectl, model)
    assert "minReplicas" in refusal
    refusal = await _refused(kubectl, inference_model("bad", scaling={"targetKVUtilization": 1.5}))
    assert "targetKVUtilization" in refusal
    refusal = await _refused(kubectl, inference_model("bad", model={"uri": "ftp://somewhere"}))
    assert "spec.model.uri" in refusal


async def _refused(kubectl: Kubectl, model: dict[str, object]) -> str:
    from tests.cluster.kubectl import CommandFailed

    try:
        await kubectl.apply(model)
    except CommandFailed as error:
        return str(error)
    raise AssertionError("it was accepted")
