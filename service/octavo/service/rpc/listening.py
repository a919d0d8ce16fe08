"""How every gRPC server of ours listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine import ConfigError

if TYPE_CHECKING:
    import grpc


def options(max_message_size: int) -> list[tuple[str, int]]:
    """Options of a gRPC server. max_message_size: of a request, in bytes."""
    return [
        # Otherwise a second server on the same port starts without a word, and takes half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_size),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", 1024),
        # W3C allows 8 KiB of baggage; gRPC's default is as much for all metadata together.
        ("grpc.max_metadata_size", 16 * 1024),
        # A peer that vanished without a word, its machine off or its network cut, is noticed within 30 s.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),  # in gRPC of today this one counts; its default is a minute
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def listen(server: grpc.aio.Server, address: str) -> str:
    """Binds `host:port` or `unix:path`, and gives it with the port that was found. ConfigError."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        rule = "cannot be listened on: it is in use, or no address of this machine"
        raise ConfigError(f"address {address}: {rule}") from None
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
