"""A moment's view of pods, the same whether a gateway told it or a pod of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from octavo.v1 import gateway_pb2

if TYPE_CHECKING:
    from octavo.v1 import engine_pb2

STALE_AFTER = 2.0
"""Seconds after which a gateway no longer trusts a report."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod and its last report.

    state: serving, connecting, draining or ejected. load: None before the first report. age: seconds since
    then. in_flight: requests that the gateway has under way there; None where a pod tells of itself.
    """

    address: str
    state: str
    load: engine_pb2.Load | None = None
    age: float = 0.0
    in_flight: int | None = None

    @property
    def held(self) -> float:
        """Share of the KV blocks that live sequences refer to, 0 to 1."""
        return _share(self.load.held_blocks, self.load.total_blocks) if self.load else 0.0

    @property
    def cached(self) -> float:
        """Share of the KV blocks that are free, but in which a prompt may find its beginning, 0 to 1."""
        return _share(self.load.cached_blocks, self.load.total_blocks) if self.load else 0.0

    @property
    def is_stale(self) -> bool:
        return self.load is not None and self.age > STALE_AFTER


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its pods by address. waiting: requests that wait at the gateway as no pod can take them."""

    name: str
    pods: tuple[Pod, ...]
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the server at `server` told. kind: gateway or pod."""

    server: str
    kind: str
    models: tuple[Model, ...]

    @property
    def pods(self) -> tuple[Pod, ...]:
        return tuple(pod for model in self.models for pod in model.pods)

    @property
    def tokens_per_second(self) -> float:
        return sum(pod.load.output_tokens_per_second for pod in self.pods if pod.load and not pod.is_stale)


def of_gateway(server: str, response: gateway_pb2.WatchPodsResponse) -> Snapshot:
    models = (
        Model(found.model, tuple(sorted(map(_pod, found.pods), key=_by_number)), found.waiting)
        for found in response.models
    )
    return Snapshot(server, "gateway", tuple(sorted(models, key=lambda model: model.name)))


def of_pod(server: str, model: str, load: engine_pb2.Load) -> Snapshot:
    pod = Pod(server, "draining" if load.draining else "serving", load)
    return Snapshot(server, "pod", (Model(model, (pod,)),))


def as_dict(snapshot: Snapshot) -> dict[str, Any]:
    """For JSON: every figure by the name that the protocol has for it, and kv_utilization."""
    return {
        "server": snapshot.server,
        "kind": snapshot.kind,
        "models": [
            {"model": model.name, "waiting": model.waiting, "pods": [_pod_as_dict(pod) for pod in model.pods]}
            for model in snapshot.models
        ],
    }


def _by_number(pod: Pod) -> list[tuple[int, str]]:
    """10.0.0.9 before 10.0.0.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", pod.address)]


def _pod(pod: gateway_pb2.Pod) -> Pod:
    return Pod(
        address=pod.address,
        state=gateway_pb2.PodState.Name(pod.state).removeprefix("POD_STATE_").lower(),
        load=pod.load if pod.HasField("load") else None,
        age=pod.load_age.ToNanoseconds() / 1e9,
        in_flight=pod.in_flight,
    )


def _pod_as_dict(pod: Pod) -> dict[str, Any]:
    figures: dict[str, Any] = {"address": pod.address, "state": pod.state}
    if pod.in_flight is not None:
        figures["in_flight"] = pod.in_flight
    if pod.load is not None:
        figures |= {"load_age": round(pod.age, 3), "kv_utilization": round(pod.held, 4)}
        figures["load"] = {field.name: getattr(pod.load, field.name) for field in pod.load.DESCRIPTOR.fields}
    return figures


def _share(part: int, whole: int) -> float:
    return min(part / whole, 1.0) if whole > 0 else 0.0
