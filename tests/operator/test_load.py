"""The load watcher against processes that live, die, hang and come back."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from octavo.operator import load as load_module
from octavo.operator.autoscaler import Load
from octavo.operator.load import LoadWatcher
from octavo.v1 import engine_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERVAL = 0.05


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def engine(port: int, held_blocks: int = 30, *flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.operator.fake_engine", str(port), str(held_blocks), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def eventually(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.02)


@pytest.fixture
def watcher() -> Iterator[LoadWatcher]:
    with closing(LoadWatcher(interval=INTERVAL)) as watcher:
        yield watcher


def is_fresh(watcher: LoadWatcher, pod: str = "a", model: str = "ns/m") -> bool:
    sample = watcher.snapshot(model).get(pod)
    return sample is not None and sample.age < 4 * INTERVAL


def test_a_pod_s_load_is_told_with_its_age(watcher: LoadWatcher) -> None:
    port = free_port()
    with engine(port, 30):
        watcher.watch("ns/m", {"a": f"127.0.0.1:{port}"})
        eventually(lambda: is_fresh(watcher))
        load = watcher.snapshot("ns/m")["a"].load
        assert load == Load(
            total_blocks=100,
            held_blocks=30,
            running=2,
            total_requests=load.total_requests,
            total_prompt_tokens=7,
            total_cached_prompt_tokens=3,
            total_output_tokens=5,
        )
        eventually(lambda: watcher.snapshot("ns/m")["a"].load.total_requests >= load.total_requests + 3)


def test_every_field_of_a_load_is_taken_from_the_field_of_that_name() -> None:
    values = {name: number for number, name in enumerate(Load.__dataclass_fields__, start=1)}
    values["draining"] = True
    assert load_module.load_of(pb.Load(**values)) == Load(**values)


def test_a_pod_that_does_not_answer_yet_is_watched_until_it_does(watcher: LoadWatcher) -> None:
    port = free_port()
    watcher.watch("ns/m", {"a": f"127.0.0.1:{port}"})
    time.sleep(0.5)
    assert watcher.snapshot("ns/m") == {}
    with engine(port):
        eventually(lambda: is_fresh(watcher))


def test_a_dead_pod_s_load_grows_old_and_a_restarted_one_s_is_new(watcher: LoadWatcher) -> None:
    port = free_port()
    watcher.watch("ns/m", {"a": f"127.0.0.1:{port}"})
    with engine(port, 30):
        eventually(lambda: is_fresh(watcher))
    eventually(lambda: watcher.snapshot("ns/m")["a"].age > 0.5)
    assert watcher.snapshot("ns/m")["a"].load.held_blocks == 30
    with engine(port, 40):
        eventually(lambda: is_fresh(watcher))
        assert watcher.snapshot("ns/m")["a"].load.held_blocks == 40


def test_a_hanging_pod_is_dialled_anew(watcher: LoadWatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "PATIENCE", 0.5)
    port = free_port()
    watcher.watch("ns/m", {"a": f"127.0.0.1:{port}"})
    with engine(port) as process:
        eventually(lambda: is_fresh(watcher))
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: watcher.snapshot("ns/m")["a"].age > 1.5)
        process.send_signal(signal.SIGCONT)
        eventually(lambda: is_fresh(watcher))


def test_models_are_apart_and_a_pod_that_is_gone_is_dropped(watcher: LoadWatcher) -> None:
    one, two = free_port(), free_port()
    with engine(one, 1), engine(two, 2):
        watcher.watch("ns/m", {"a": f"127.0.0.1:{one}", "b": f"127.0.0.1:{two}"})
        watcher.watch("ns/n", {"a": f"127.0.0.1:{two}"})
        eventually(
            lambda: is_fresh(watcher, "a") and is_fresh(watcher, "b") and is_fresh(watcher, "a", "ns/n")
        )
        assert watcher.snapshot("ns/m")["a"].load.held_blocks == 1
        assert watcher.snapshot("ns/n")["a"].load.held_blocks == 2
        watcher.watch("ns/m", {"b": f"127.0.0.1:{two}"})
        assert list(watcher.snapshot("ns/m")) == ["b"]
        watcher.forget("ns/m")
        assert watcher.snapshot("ns/m") == {}
        time.sleep(3 * INTERVAL)
        assert watcher.snapshot("ns/m") == {}
        assert is_fresh(watcher, "a", "ns/n")


def test_a_pod_at_a_new_address_is_another_pod(watcher: LoadWatcher) -> None:
    one, two = free_port(), free_port()
    with engine(one, 1), engine(two, 2):
        watcher.watch("ns/m", {"a": f"127.0.0.1:{one}"})
        eventually(lambda: is_fresh(watcher))
        watcher.watch("ns/m", {"a": f"127.0.0.1:{two}"})
        assert watcher.snapshot("ns/m") == {}
        eventually(lambda: is_fresh(watcher))
        assert watcher.snapshot("ns/m")["a"].load.held_blocks == 2


def test_a_queue_that_appears_is_told_once() -> None:
    port, told = free_port(), []
    with engine(port, 30, "--queue"), closing(LoadWatcher(INTERVAL, on_change=told.append)) as watcher:
        watcher.watch("ns/m", {"a": f"127.0.0.1:{port}"})
        eventually(lambda: is_fresh(watcher))
        time.sleep(10 * INTERVAL)
        assert told == ["ns/m"]


def test_what_fails_in_a_callback_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    def fail(model: str) -> None:
        raise RuntimeError(model)

    port = free_port()
    with engine(port), closing(LoadWatcher(INTERVAL, on_change=fail)) as watcher:
        watcher.watch("ns/m", {"a": f"127.0.0.1:{port}"})
        eventually(lambda: "telling that the load changed failed" in caplog.text)
        eventually(lambda: is_fresh(watcher))


def test_closing_ends_the_thread_even_while_pods_are_watched() -> None:
    before = threading.active_count()
    port = free_port()
    with engine(port):
        watcher = LoadWatcher(INTERVAL)
        watcher.watch("ns/m", {"a": f"127.0.0.1:{port}", "b": f"127.0.0.1:{free_port()}"})
        eventually(lambda: is_fresh(watcher))
        watcher.close()
        watcher.close()
    assert not any(thread.name == "load-watcher" for thread in threading.enumerate())
    assert threading.active_count() <= before + 1
