"""Where a command's model is: at a server's address, or loaded into this process."""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.engine import ConfigError, InvalidRequest
from octavo.service.client import Client
from octavo.service.config import load_config
from octavo.service.local import local_server
from octavo.service.options import FROM_FILES, sampling_settings
from octavo.service.rpc.sampling import message_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from octavo.v1 import inference_pb2 as pb

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
    """The sampling flags that were given. ConfigError names one that is wrong."""
    settings = {setting.name: setting for setting in sampling_settings()}
    values: dict[str, object] = {}
    for name, text in flags.items():
        source = f"flag {settings[name].flag}"
        values[name] = settings[name].parse(_content(name, text, source), source)
        try:
            message_of({name: values[name]})
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from None
    try:
        return message_of(values)
    except InvalidRequest as error:
        [violation] = error.violations
        raise ConfigError(f"flag {settings[violation.field].flag}: {violation.rule}") from None


def _content(name: str, text: object, source: str) -> object:
    """What a flag says, or the content of the file that it names."""
    if name not in FROM_FILES or not isinstance(text, str) or not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot read {text[1:]}: {error}") from None
