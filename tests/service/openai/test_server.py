"""The HTTP server by itself: its port, its end, and what it does not put up with."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

import pytest

from octavo.engine import ConfigError
from octavo.service.openai import protocol
from octavo.service.openai.protocol import MAX_HEAD_SIZE
from octavo.service.openai.server import HTTPServer


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def endless(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while (await receive())["type"] != "http.disconnect":
        pass


async def connected(server: HTTPServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = server.address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_it_answers_on_its_address(host: str) -> None:
    server = HTTPServer(host, 0)
    await server.start(hello)
    reader, writer = await connected(server)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    await server.stop(1)


def test_a_taken_port_is_found_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"address 127.0.0.1:{port}: cannot be listened on: .* in use"):
            HTTPServer("127.0.0.1", port)


async def test_two_that_load_do_not_share_a_port() -> None:
    first = HTTPServer("127.0.0.1", 0)
    with pytest.raises(ConfigError, match="in use"):
        HTTPServer("127.0.0.1", first.port)
    await first.stop(0)
    await HTTPServer("127.0.0.1", first.port).stop(0)


def test_a_host_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match=r"address 192\.0\.2\.1:0: cannot be listened on"):
        HTTPServer("192.0.2.1", 0)


async def test_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    server = HTTPServer("127.0.0.1", 0)
    await server.start(hello)
    await asyncio.sleep(0.05)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    await server.stop(1)


async def test_its_end_does_not_wait_for_idle_connections() -> None:
    server = HTTPServer("127.0.0.1", 0)
    await server.start(hello)
    reader, writer = await connected(server)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\nok")
    async with asyncio.timeout(2):
        await server.stop(30)
    assert await reader.read() == b""
    writer.close()


async def test_at_the_end_of_the_grace_connections_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    server = HTTPServer("127.0.0.1", 0)
    await server.start(endless)
    reader, writer = await connected(server)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(3):
        await server.stop(0.3)
    assert await reader.read() == b""  # without the last chunk, so the reader knows that it was cut
    assert "Exception" not in caplog.text
    writer.close()


async def test_a_head_without_end_is_cut_off() -> None:
    server = HTTPServer("127.0.0.1", 0)
    await server.start(hello)
    reader, writer = await connected(server)
    writer.write(b"GET / HTTP/1.1\r\n")
    for i in range(2 * MAX_HEAD_SIZE // 1000):
        writer.write(b"x-%d: %s\r\n" % (i, b"y" * 1000))
    assert (await reader.read(12)) == b"HTTP/1.1 400"
    writer.close()
    await server.stop(1)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nhalf"])
async def test_a_request_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(protocol, "PATIENCE", 0.2)
    server = HTTPServer("127.0.0.1", 0)
    await server.start(endless)
    reader, writer = await connected(server)
    writer.write(begun)
    async with asyncio.timeout(5):
        assert not (await reader.read()).endswith(b"0\r\n\r\n")
    writer.close()
    await server.stop(1)


async def test_an_answer_may_take_longer_than_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "PATIENCE", 0.1)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.4)
        await hello(scope, receive, send)

    server = HTTPServer("127.0.0.1", 0)
    await server.start(slow)
    reader, writer = await connected(server)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\nGET ")
    for _ in range(2):
        await reader.readuntil(b"\r\n\r\nok")
    writer.close()
    await server.stop(1)
