"""Where a command's model is: at a server's address, or loaded into this process."""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from octavo.engine import ConfigError
from octavo.service.client import Client
from octavo.service.config import load_config
from octavo.service.local import local_server
from octavo.service.options import sampling_settings
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

ADDRESS = re.compile(r"unix:\S+|[^\s/]+:\d+")


@asynccontextmanager
async def connected(
    address: str | None, flags: Mapping[str, object], file: Path | None
) -> AsyncIterator[Client]:
    """A client of the server at `address`, or of a model loaded here as flags say; not of both."""
    if address is not None:
        if flags:
            given = ", ".join("--" + name.replace("_", "-") for name in flags)
            raise ConfigError(f"{given}: is for a model that is loaded here, not for the server {address}")
        if not ADDRESS.fullmatch(address):
            raise ConfigError(f"flag --server: must be host:port or unix:path (got {address!r})")
        async with Client(address) as client:
            yield client
        return
    engine_config, _ = load_config(flags, os.environ, file)
    async with local_server(engine_config) as local_address, Client(local_address) as client:
        yield client


def sampling_message(flags: Mapping[str, object]) -> pb.SamplingParams:
    """The sampling flags that were given. ConfigError names one that is of the wrong type."""
    message = pb.SamplingParams()
    settings = {setting.name: setting for setting in sampling_settings()}
    for name, text in flags.items():
        setting = settings[name]
        value = setting.parse(text, f"flag {setting.flag}")
        try:
            if isinstance(value, tuple):
                getattr(message, name).extend(value)
            else:
                setattr(message, name, value)
        except ValueError as error:
            raise ConfigError(f"flag {setting.flag}: {error}") from None
    return message
