"""Where a gateway's pods are, as its settings say."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from octavo.engine import ConfigError
from octavo.service.gateway.directory import Directory
from octavo.service.gateway.endpoints.dns import DnsSource
from octavo.service.gateway.endpoints.static import StaticSource
from octavo.service.gateway.pod import PodSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from octavo.service.gateway.config import GatewayConfig
    from octavo.service.gateway.endpoints.source import Source


@asynccontextmanager
async def directory_of(config: GatewayConfig) -> AsyncIterator[Directory]:
    """A directory that follows the configured source of endpoints. ConfigError."""
    settings = PodSettings(interval=config.watch_interval, hang_timeout=config.hang_timeout)
    if config.kubernetes:
        async with _in_kubernetes(config.namespaces, settings) as directory:
            yield directory
        return
    directory = Directory(_fixed(config), settings)
    await directory.start()
    try:
        yield directory
    finally:
        await directory.stop()


def _fixed(config: GatewayConfig) -> Source:
    if config.pods:
        return StaticSource(config.pods)
    assert config.dns is not None
    model, _, name = config.dns.rpartition("=")
    return DnsSource(name, model or None)


@asynccontextmanager
async def _in_kubernetes(namespaces: tuple[str, ...], settings: PodSettings) -> AsyncIterator[Directory]:
    """It also publishes the demand for models without a pod."""
    try:
        from octavo.service.gateway.demand import DemandPublisher
        from octavo.service.gateway.endpoints.kubernetes import KubernetesSource
        from octavo.service.gateway.kubernetes.access import find_access
        from octavo.service.gateway.kubernetes.api import Api
    except ModuleNotFoundError as error:
        rule = f"{error.name} is missing; install it with: pip install 'octavo[operator]'"
        raise ConfigError(f"setting kubernetes: {rule}") from None
    api = Api(find_access)
    await api.connect()
    source = KubernetesSource(api, namespaces)
    directory = Directory(source, settings)
    publisher = DemandPublisher(api, directory, source.resource, socket.gethostname())
    await directory.start()
    await publisher.start()
    try:
        yield directory
    finally:
        await publisher.stop()
        await directory.stop()
        await api.close()
