"""What the cluster asks: health, load, and to go out of service."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from octavo.v1 import engine_pb2
from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import ENDLESS, GREEDY, Serving, World, as_prompt, collect, refused

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ["", "octavo.v1.Inference", "octavo.v1.Engine"]


def milliseconds(count: int) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(count)
    return duration


@pytest.mark.parametrize("service", SERVICES)
async def test_health_of_the_server_and_of_each_service(world: World, service: str) -> None:
    health = health_pb2_grpc.HealthStub(world.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == SERVING


@pytest.mark.parametrize("service", SERVICES)
async def test_watched_health_turns_when_the_server_drains(world: World, service: str) -> None:
    health = health_pb2_grpc.HealthStub(world.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=service))
    assert (await watch.read()).status == SERVING
    await world.cluster.Drain(engine_pb2.DrainRequest())
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()


async def test_the_load_comes_at_once_and_after_every_interval(world: World) -> None:
    seldom = world.cluster.WatchLoad(engine_pb2.WatchLoadRequest(interval=milliseconds(60_000)))
    async with asyncio.timeout(10):
        await seldom.read()
    seldom.cancel()

    watch = world.cluster.WatchLoad(engine_pb2.WatchLoadRequest(interval=milliseconds(50)))
    idle = (await watch.read()).load
    assert idle.total_blocks == world.engine.model.num_blocks
    assert (idle.held_blocks, idle.running, idle.waiting, idle.draining) == (0, 0, 0, False)

    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=ENDLESS)
    call = world.inference.Generate(request)
    await world.until(lambda load: load.total_output_tokens > 5)
    busy = [(await watch.read()).load for _ in range(3)][-1]
    assert busy.running == 1
    assert busy.held_blocks > 0
    assert busy.output_tokens_per_second > 0
    call.cancel()
    watch.cancel()


async def test_the_load_keeps_coming_while_a_step_takes_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = world.engine._engine._runner
    compute, seen = runner.run, threading.Event()

    def slow(batch: object) -> object:
        assert seen.wait(60), "the load that was to come during the step"
        return compute(batch)

    monkeypatch.setattr(runner, "run", slow)
    call = world.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=GREEDY))
    watch = world.cluster.WatchLoad(engine_pb2.WatchLoadRequest(interval=milliseconds(20)))
    await world.until(lambda load: load.waiting_tokens > 0)
    loads = [(await watch.read()).load for _ in range(10)]
    seen.set()
    assert loads[-1].waiting_tokens > 0, "what the step does not know of yet"
    assert (loads[-1].total_requests, loads[-1].total_finished_requests) == (1, 0)
    call.cancel()
    watch.cancel()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_engine_that_fails_ends_load_and_sessions_and_turns_health_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the device is gone")

    health = health_pb2_grpc.HealthStub(world.channel)
    watch_health = health.Watch(health_pb2.HealthCheckRequest(service="octavo.v1.Engine"))
    assert (await watch_health.read()).status == SERVING
    watch = world.cluster.WatchLoad(engine_pb2.WatchLoadRequest(interval=milliseconds(60_000)))
    await watch.read()
    session = world.session()
    await session.call.wait_for_connection()
    monkeypatch.setattr(world.engine._engine._runner, "run", fail)
    began = time.monotonic()
    assert (await refused_late(world)).code() == grpc.StatusCode.UNAVAILABLE
    assert (await watch_health.read()).status == NOT_SERVING
    for call in (watch, session.call):
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - began < 2
    watch_health.cancel()


@pytest.mark.parametrize("interval", [0, 9, -500])
async def test_an_interval_under_10_ms_is_refused(world: World, interval: int) -> None:
    request = engine_pb2.WatchLoadRequest(interval=milliseconds(interval))
    refusal = await refused(world.cluster.WatchLoad(request))
    assert refusal.violations[0] == ("interval", f"must be at least 0.01 s (got '{interval / 1000:g} s')")


async def test_drain_lets_running_requests_finish_and_refuses_new_ones(world: World) -> None:
    sampling = pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=200)
    running = world.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=sampling))
    await running.read()
    drain = asyncio.ensure_future(world.cluster.Drain(engine_pb2.DrainRequest()))
    await world.until(lambda load: load.draining)
    late = await refused_late(world)
    assert late.code() == grpc.StatusCode.UNAVAILABLE
    assert (await collect(running)).usage.output_tokens == 200
    await drain
    assert (await world.load()).draining  # the server itself goes on


async def test_what_runs_beyond_the_grace_period_ends_with_unavailable(world: World) -> None:
    running = world.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=ENDLESS))
    await running.read()
    await world.cluster.Drain(engine_pb2.DrainRequest(grace_period=milliseconds(100)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(running)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_in_a_session_drained_requests_fail_and_new_ones_are_rejected(world: World) -> None:
    session = world.session()
    await session.submit("running", "Hello", sampling=ENDLESS)
    await world.until_running()
    await world.cluster.Drain(engine_pb2.DrainRequest(grace_period=milliseconds(0)))
    await session.submit("late", "Hello")
    assert (await session.rejection("late")).code == "UNAVAILABLE"
    while (event := await session.next_event("running")).WhichOneof("event") != "failed":
        pass
    assert event.failed.code == grpc.StatusCode.UNAVAILABLE.value[0]


async def test_a_cancelled_drain_goes_on(world: World) -> None:
    running = world.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=ENDLESS))
    await running.read()
    drain = world.cluster.Drain(engine_pb2.DrainRequest())
    await world.until(lambda load: load.draining)
    drain.cancel()
    assert (await refused_late(world)).code() == grpc.StatusCode.UNAVAILABLE
    running.cancel()


async def test_a_negative_grace_period_is_refused(world: World) -> None:
    refusal = await refused(world.cluster.Drain(engine_pb2.DrainRequest(grace_period=milliseconds(-1))))
    assert refusal.violations[0][0] == "grace_period"
    assert not world.engine.load().draining


async def test_stopping_ends_idle_sessions_and_watches_with_unavailable(serving: Serving) -> None:
    world = await serving()
    session = world.session()
    await session.submit("a", "Hello", hold=True)
    await session.answer("a")
    watch = world.cluster.WatchLoad(engine_pb2.WatchLoadRequest())
    await watch.read()
    began = time.monotonic()
    await world.server.stop(grace=5)
    assert time.monotonic() - began < 2
    for call in (session.call, watch):
        assert await call.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_signal_is_not_held_up_by_a_more_patient_drain(serving: Serving) -> None:
    world = await serving()
    running = world.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=ENDLESS))
    await running.read()
    patient = world.cluster.Drain(engine_pb2.DrainRequest(grace_period=milliseconds(60_000)))
    await world.until(lambda load: load.draining)
    began = time.monotonic()
    await world.server.stop(grace=0.1)
    assert time.monotonic() - began < 3
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(running)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    await patient


async def refused_late(world: World) -> grpc.aio.AioRpcError:
    """The error of a request to a server that drains."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(world.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Late"), sampling=GREEDY)))
    return caught.value
