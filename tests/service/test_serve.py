"""`octavo serve` as a process: how it begins, how it ends, and with which exit code."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import openai
import pytest

from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.conftest import TinyModel
from tests.service.conftest import ENDLESS

OCTAVO = [sys.executable, "-m", "octavo.service.cli"]


class Process:
    """A running `octavo serve`, and the lines that it has logged."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*OCTAVO, "serve", *arguments, "--port", "0"], stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self.ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "ready in" in line:
                self.ready.set()

    @property
    def address(self) -> str:
        assert self.ready.wait(60), self.lines
        found = re.search(r" on (127\.0\.0\.1:\d+) ", "".join(self.lines))
        assert found
        return found[1]

    def end(self) -> int:
        code = self.process.wait(30)
        self._reader.join()
        return code


@contextmanager
def served(*arguments: str) -> Iterator[Process]:
    process = Process(*arguments)
    try:
        yield process
    finally:
        process.process.kill()
        process.end()


def fails(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of an `octavo` that cannot begin."""
    done = subprocess.run([*OCTAVO, *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_sigterm_lets_running_requests_finish_and_ends_with_0(tiny_model: TinyModel) -> None:
    with served(str(tiny_model("llama")), "--kv-cache-memory", "4Mi") as octavo:
        channel = grpc.insecure_channel(octavo.address)
        sampling = pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=300)
        request = pb.GenerateRequest(prompt=pb.Prompt(text="Hello"), sampling=sampling)
        responses = InferenceStub(channel).Generate(request)
        tokens = len(next(responses).delta.token_ids)
        octavo.process.send_signal(signal.SIGTERM)
        tokens += sum(len(response.delta.token_ids) for response in responses)
        assert tokens == 300
        assert octavo.end() == 0
        channel.close()
    assert re.search(r"ready in .* KV blocks of 16 tokens, context of 512 tokens", octavo.lines[0])
    assert "SIGTERM: draining" in octavo.lines[1]


def test_beyond_the_grace_period_requests_end_with_unavailable(tiny_model: TinyModel) -> None:
    with answering(tiny_model, "--grace-period", "0.2") as (octavo, responses):
        octavo.process.send_signal(signal.SIGINT)
        with pytest.raises(grpc.RpcError) as caught:
            list(responses)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert octavo.end() == 0


def test_a_second_signal_ends_at_once(tiny_model: TinyModel) -> None:
    with answering(tiny_model) as (octavo, _):
        octavo.process.send_signal(signal.SIGTERM)
        while len(octavo.lines) < 2:
            time.sleep(0.01)
        octavo.process.send_signal(signal.SIGTERM)
        assert octavo.process.wait(2) == -signal.SIGTERM


@contextmanager
def answering(
    tiny_model: TinyModel, *arguments: str
) -> Iterator[tuple[Process, Iterator[pb.GenerateResponse]]]:
    """A server in the middle of a long answer, and the answer."""
    model = str(tiny_model("llama", max_position_embeddings=4096))
    with (
        served(model, "--kv-cache-memory", "4Mi", *arguments) as octavo,
        grpc.insecure_channel(octavo.address) as channel,
    ):
        request = pb.GenerateRequest(prompt=pb.Prompt(text="Hello"), sampling=ENDLESS)
        responses = InferenceStub(channel).Generate(request)
        next(responses)
        yield octavo, responses


def test_a_missing_model_ends_in_one_line_and_exit_code_2(tmp_path: Path) -> None:
    code, stderr = fails("serve", str(tmp_path / "nothing"), "--port", "0")
    assert code == 2
    assert stderr.count("\n") == 1
    assert stderr.startswith("octavo: ")
    assert "nothing" in stderr


def test_a_truncated_model_ends_in_one_line_and_exit_code_2(smollm2_path: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.gguf"
    with smollm2_path.open("rb") as whole:
        truncated.write_bytes(whole.read(20_000_000))
    code, stderr = fails("serve", str(truncated), "--port", "0")
    assert code == 2
    assert stderr.count("\n") == 1
    assert "truncated.gguf" in stderr


def test_an_unsupported_architecture_ends_in_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}')
    code, stderr = fails("serve", str(tmp_path), "--port", "0")
    assert code == 2
    assert stderr.count("\n") == 1
    assert "MambaForCausalLM is not supported" in stderr


def test_a_taken_port_is_found_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, stderr = fails("serve", str(tmp_path / "nothing"), "--port", port)
    assert code == 2
    assert stderr.count("\n") == 1
    assert f"address 127.0.0.1:{port}: cannot be listened on" in stderr


def test_http_is_served_beside_grpc_and_drains_with_it(tiny_model: TinyModel) -> None:
    with served(str(tiny_model("llama")), "--kv-cache-memory", "4Mi", "--http", "--http-port", "0") as octavo:
        assert octavo.ready.wait(60), octavo.lines
        found = re.search(r" on 127\.0\.0\.1:\d+ and (http://127\.0\.0\.1:\d+) ", octavo.lines[0])
        assert found
        client = openai.OpenAI(base_url=f"{found[1]}/v1", api_key="none", max_retries=0)
        stream = client.completions.create(
            model="",
            prompt="Hello",
            max_tokens=300,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        next(stream)
        octavo.process.send_signal(signal.SIGTERM)
        last = list(stream)[-1]
        assert last.usage
        assert last.usage.completion_tokens == 300
        client.close()
        assert octavo.end() == 0
    assert len(octavo.lines) == 3, "ready, draining, stopped, and nothing of the HTTP server's own"


def test_a_taken_http_port_is_found_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, stderr = fails("serve", str(tmp_path / "nothing"), "--port", "0", "--http", "--http-port", port)
    assert code == 2
    assert stderr.count("\n") == 1
    assert f"address 127.0.0.1:{port}: cannot be listened on" in stderr


def test_ranks_that_do_not_divide_the_heads_end_in_one_line_and_exit_code_2(tiny_model: TinyModel) -> None:
    code, stderr = fails("serve", str(tiny_model("llama")), "--port", "0", "--tensor-parallel-size", "3")
    assert code == 2
    assert re.fullmatch(r"octavo: tensor_parallel_size: must divide the 4 query heads .* \(got 3\)\n", stderr)


def test_a_bad_setting_ends_in_one_line_and_exit_code_2() -> None:
    code, stderr = fails("serve", "--max-model-len", "long")
    assert code == 2
    assert stderr.startswith("octavo: flag --max-model-len: ")
    assert stderr.count("\n") == 1
