"""How to reach the API server: as a pod of the cluster, or by a kubeconfig file."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.engine import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Access:
    """An API server, and who we are to it.

    tls: None for plain HTTP.
    token_file: holds the bearer token, is replaced before it expires, and so is read for each request.
    server_name: what the server's certificate is for, if not for the host of the URL.
    proxy: URL of an HTTP proxy to go through.
    """

    url: str
    tls: ssl.SSLContext | None = None
    token: str | None = None
    token_file: Path | None = None
    server_name: str | None = None
    proxy: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        token = self.token_file.read_text().strip() if self.token_file else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}


async def find_access(
    environment: Mapping[str, str] = os.environ, service_account: Path = SERVICE_ACCOUNT
) -> Access:
    """By KUBECONFIG if it is set, else by the pod's service account, else by ~/.kube/config. ConfigError."""
    if not environment.get("KUBECONFIG") and environment.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(environment, service_account)
    return await by_kubeconfig(environment.get("KUBECONFIG") or None)


def in_cluster(environment: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> Access:
    """Access of a pod (kubernetes.io, Accessing the Kubernetes API from a Pod). ConfigError."""
    host = environment["KUBERNETES_SERVICE_HOST"]
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        tls = ssl.create_default_context(cafile=str(service_account / "ca.crt"))
        (service_account / "token").read_text()
    except OSError as error:
        raise ConfigError(f"the pod's service account in {service_account}: {error}") from None
    shown = f"[{host}]" if ":" in host else host
    return Access(f"https://{shown}:{port}", tls, token_file=service_account / "token")


async def by_kubeconfig(files: str | None) -> Access:
    """Access of a person, with certificates, tokens or credential plugins; `files` as KUBECONFIG has them."""
    # The client library knows all ways to log in. It takes 0.5 s to import, which a pod is spared.
    try:
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config import ConfigException, load_kube_config
    except ImportError:
        raise ConfigError("endpoints from Kubernetes: install octavo with its extra `operator`") from None
    configuration: Any = Configuration()
    try:
        await load_kube_config(files, client_configuration=configuration)
    except ConfigException as error:
        raise ConfigError(f"kubeconfig: {error}") from None
    token = configuration.api_key.get("BearerToken", "").removeprefix("Bearer ")
    tls = None
    if configuration.host.startswith("https:"):
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if not configuration.verify_ssl:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        if configuration.cert_file:
            tls.load_cert_chain(configuration.cert_file, configuration.key_file)
    return Access(
        configuration.host.rstrip("/"),
        tls,
        token,
        server_name=configuration.tls_server_name,
        proxy=configuration.proxy,
    )
