"""The command itself: once, as JSON, and live on a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.top.conftest import FakeGateway, Servers, pod, pods

TOP = [sys.executable, "-m", "octavo.service.cli", "top"]


async def run(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *TOP, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), err.decode()


async def test_without_a_terminal_it_prints_one_table(servers: Servers) -> None:
    address = await servers.start(FakeGateway([pods(pod())]))
    code, out, err = await run("--server", address)
    assert (code, err) == (0, "")
    assert out.startswith(f"gateway {address} · 1 model, 1 pod")


async def test_once_as_json_is_one_object(servers: Servers) -> None:
    address = await servers.start(FakeGateway([pods(pod())]))
    code, out, _ = await run("--server", address, "--once", "--json")
    assert code == 0
    assert json.loads(out)["models"][0]["pods"][0]["address"] == "10.0.0.1:50051"


async def test_json_goes_on_an_object_a_line(servers: Servers) -> None:
    address = await servers.start(FakeGateway([pods(pod("a:1")), pods(pod("b:1")), pods(pod("c:1"))]))
    process = await asyncio.create_subprocess_exec(
        *TOP, "--server", address, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        lines = [json.loads(await process.stdout.readline()) for _ in range(3)]
        process.terminate()
        await process.communicate()
    assert [line["models"][0]["pods"][0]["address"] for line in lines] == ["a:1", "b:1", "c:1"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--server", "nowhere"], 2, "flag --server: must be host:port or unix:path (got 'nowhere')"),
        (["--interval", "0"], 2, "flag --interval: must be at least 0.01 s (got 0)"),
        (["--server", "127.0.0.1:1", "--once"], 1, "UNAVAILABLE"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(arguments: list[str], code: int, message: str) -> None:
    found, out, err = await run(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("key", [b"q", b"\x03"])
async def test_on_a_terminal_it_is_live_until_q_or_control_c(servers: Servers, key: bytes) -> None:
    address = await servers.start(FakeGateway([pods(pod())]))
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)", *TOP),
        *("--server", address),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "20"},
    )
    try:
        seen = b""
        async with asyncio.timeout(30):
            while b"10.0.0.1:50051" not in seen:
                seen += await asyncio.to_thread(os.read, ours, 4096)
            os.write(ours, key)
            while b"\x1b[?1049l" not in seen:
                seen += await asyncio.to_thread(os.read, ours, 4096)
            assert await process.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"\x1b[?1049h" in seen, "the picture is on a screen of its own"


def test_help_says_what_it_watches(capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([*TOP, "--help"], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert "localhost:50050" in done.stdout
