"""The Kubernetes API, as far as the operator needs it: JSON in, JSON out, one kind of error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from octavo.operator.kinds import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kubernetes.aio.client import ApiClient

    from octavo.operator.desired import Manifest
    from octavo.operator.kinds import Kind

FIELD_MANAGER = "octavo-operator"

TIMEOUT = 5.0
"""Seconds for one call. A call that began while the lease was held ends before another holder may act."""

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiError(Exception):
    """A call that the API server refused, or did not answer (status 0).

    reason: Kubernetes' word for it, such as Forbidden. causes: what is wrong with which field; of a
    conflict, whose it is.
    """

    def __init__(
        self, status: int, reason: str, message: str, causes: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.causes = tuple(causes)

    @property
    def passing(self) -> bool:
        """Whether the API server is what is wrong, rather than what it was asked."""
        return self.status == 0 or self.status == 429 or self.status >= 500


class NotLeading(Exception):
    """Another operator may be acting by now, so nothing was written."""


class Cluster:
    """Calls of one API server. Every write asks `may_write` first, and raises NotLeading if it may not.

    All methods raise ApiError.
    """

    def __init__(self, client: ApiClient, may_write: Callable[[], bool] = lambda: True) -> None:
        self._client = client
        self._may_write = may_write

    def fenced(self, may_write: Callable[[], bool]) -> Cluster:
        """The same cluster, written to only while that holds."""
        return Cluster(self._client, may_write)

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """The object; None if there is none."""
        try:
            found: Manifest = await self._call("GET", kind.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def find(self, kind: Kind, namespace: str | None = None, labels: str = "") -> list[Manifest]:
        """All objects of a kind, of one namespace or of all, with these labels."""
        query = [("labelSelector", labels)] if labels else []
        answer = await self._call("GET", kind.path(namespace), query)
        return [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in answer["items"]]

    async def apply(self, manifest: Manifest, *, force: bool = False, subresource: str = "") -> Manifest:
        """Server-side apply under the operator's field manager. A conflict is refused unless forced."""
        metadata = manifest["metadata"]
        path = BY_NAME[manifest["kind"]].path(metadata["namespace"], metadata["name"], subresource)
        query = [("fieldManager", FIELD_MANAGER), ("force", str(force).lower())]
        return await self._write("PATCH", path, manifest, query, "application/apply-patch+yaml")

    async def annotate(
        self, kind: Kind, namespace: str, name: str, annotations: Mapping[str, str]
    ) -> Manifest:
        """Adds annotations to an object."""
        patch = {"metadata": {"annotations": dict(annotations)}}
        query = [("fieldManager", FIELD_MANAGER)]
        content = "application/merge-patch+json"
        return await self._write("PATCH", kind.path(namespace, name), patch, query, content)

    async def create(self, manifest: Manifest) -> Manifest:
        """Makes an object; a conflict if there is one."""
        path = BY_NAME[manifest["kind"]].path(manifest["metadata"]["namespace"])
        return await self._write("POST", path, manifest, [("fieldManager", FIELD_MANAGER)])

    async def replace(self, manifest: Manifest) -> Manifest:
        """Puts this in the object's place; a conflict if that has changed since it was read."""
        metadata = manifest["metadata"]
        path = BY_NAME[manifest["kind"]].path(metadata["namespace"], metadata["name"])
        return await self._write("PUT", path, manifest, [("fieldManager", FIELD_MANAGER)])

    async def delete(self, manifest: Manifest) -> None:
        """Deletes exactly this object, not a later one of the same name; fine if it is gone."""
        metadata = manifest["metadata"]
        path = BY_NAME[manifest["kind"]].path(metadata["namespace"], metadata["name"])
        options = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        try:
            await self._write("DELETE", path, options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server knows the kind."""
        try:
            answer = await self._call("GET", kind.path().rpartition("/")[0])
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(resource["name"] == kind.plural for resource in answer["resources"])

    async def close(self) -> None:
        await self._client.close()

    async def _write(
        self,
        method: str,
        path: str,
        body: Any,
        query: list[tuple[str, str]] | None = None,
        content: str = "application/json",
    ) -> Manifest:
        if not self._may_write():
            raise NotLeading
        written: Manifest = await self._call(method, path, query, body, content)
        return written

    async def _call(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        body: Any = None,
        content: str = "application/json",
    ) -> Any:
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=query,
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            timeout = aiohttp.ClientTimeout(total=TIMEOUT)
            answer = await self._client.call_api(*request, _request_timeout=timeout)
            data = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            message = str(error) or type(error).__name__
            raise ApiError(0, "Unreachable", f"the API server does not answer: {message}") from error
        if not 200 <= answer.status < 300:
            raise _refused(answer.status, data)
        return json.loads(data)


def in_cluster() -> bool:
    """Whether the process runs in a pod; a kubeconfig there is somebody's explicit wish."""
    return (SERVICE_ACCOUNT / "token").is_file() and "KUBECONFIG" not in os.environ


async def connect() -> Cluster:
    """The cluster that the process runs in, else the kubeconfig's. ConfigException if there is neither."""
    from kubernetes.aio import client, config

    configuration = client.Configuration()
    if in_cluster():
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(client_configuration=configuration, persist_config=False)
    return Cluster(client.ApiClient(configuration))


def _refused(status: int, data: bytes) -> ApiError:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    causes = (answer.get("details") or {}).get("causes") or []
    message = answer.get("message") or data.decode(errors="replace")[:500] or f"HTTP {status}"
    told = [(cause.get("field", ""), cause.get("message", "")) for cause in causes]
    return ApiError(status, answer.get("reason") or f"HTTP{status}", message, told)
