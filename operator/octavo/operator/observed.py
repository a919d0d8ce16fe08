"""What a model's objects are doing, read from them: a pure function."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from octavo.operator.desired import Manifest

BROKEN = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""Reasons for which a container waits that nobody but its owner can mend."""

UNSCHEDULABLE_PATIENCE = 10.0
"""Seconds for which a pod may be without a node before that is a problem."""

OWNER_OF_THE_UNOWNED = "before-first-apply"
"""What Kubernetes calls the owner of fields whose owners were cleared."""

MESSAGE_LIMIT = 500

FRAME = " \t│─╭╮╰╯"
"""What the command line draws around its errors."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps pods from serving."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class EnginePod:
    """One pod, as the operator needs it."""

    name: str
    address: str
    """Its IP address; empty before it has one."""
    ready: bool
    terminating: bool
    deletion_cost: str | None
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class Observed:
    """One moment of a model's objects."""

    exists: bool = False
    """Whether there is a Deployment."""
    spec_replicas: int = 0
    replicas: int = 0
    ready: int = 0
    updated: int = 0
    rolled_out: bool = False
    """Whether all pods are ready and of the Deployment's present template, and no other is left."""
    replicas_owner: str | None = None
    """The field manager, other than the operator, that owns the Deployment's replicas."""
    pods: tuple[EnginePod, ...] = ()
    routed: int = 0
    """Ready addresses in the EndpointSlices that gateways follow."""
    problem: Problem | None = None


def observe(
    deployment: Manifest | None,
    pods: Sequence[Manifest],
    slices: Iterable[Manifest],
    own_manager: str,
    now: float,
) -> Observed:
    """Everything of interest. `slices`: those of the headless Service; `now` in seconds since the epoch."""
    seen = tuple(
        _pod(pod, now) for pod in pods if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )
    routed = sum(1 for each in slices for endpoint in each.get("endpoints") or [] if _serves(endpoint))
    if deployment is None:
        return Observed(pods=seen, routed=routed)
    spec, status = deployment["spec"], deployment.get("status", {})
    replicas = status.get("replicas", 0)
    updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
    current = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    return Observed(
        exists=True,
        spec_replicas=spec.get("replicas", 1),
        replicas=replicas,
        ready=ready,
        updated=updated,
        rolled_out=current and updated == replicas == ready == spec.get("replicas", 1),
        replicas_owner=replicas_owner(deployment, own_manager),
        pods=seen,
        routed=routed,
        problem=_problem(status, seen),
    )


def replicas_owner(deployment: Manifest, own_manager: str) -> str | None:
    """The manager other than our own that last set spec.replicas, from metadata.managedFields."""
    for entry in deployment["metadata"].get("managedFields") or []:
        owns = "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
        if owns and entry.get("manager") not in (own_manager, OWNER_OF_THE_UNOWNED):
            return str(entry.get("manager"))
    return None


def _problem(status: dict[str, Any], pods: Iterable[EnginePod]) -> Problem | None:
    """The pods' own states first: they tell more than the Deployment does of them."""
    for pod in pods:
        if pod.problem and not pod.terminating:
            return pod.problem
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    failure = conditions.get("ReplicaFailure", {})
    if failure.get("status") == "True":
        return Problem(failure.get("reason", "FailedCreate"), _shortened(failure.get("message", "")))
    progressing = conditions.get("Progressing", {})
    if progressing.get("status") == "False":
        return Problem(progressing.get("reason", ""), _shortened(progressing.get("message", "")))
    return None


def _pod(pod: Manifest, now: float) -> EnginePod:
    metadata, status = pod["metadata"], pod.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    ready = conditions.get("Ready", {}).get("status") == "True"
    return EnginePod(
        name=metadata["name"],
        address=status.get("podIP", ""),
        ready=ready,
        terminating="deletionTimestamp" in metadata,
        deletion_cost=metadata.get("annotations", {}).get("controller.kubernetes.io/pod-deletion-cost"),
        problem=None if ready else next(_problems(metadata["name"], status, conditions, now), None),
    )


def _problems(name: str, status: dict[str, Any], conditions: dict[str, Any], now: float) -> Iterator[Problem]:
    containers = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    for container in containers:
        found = _problem_of(container)
        if found:
            yield Problem(found.reason, f"pod {name}, container {container['name']}: {found.message}")
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        since = _seconds(scheduled.get("lastTransitionTime"))
        if since is None or now - since >= UNSCHEDULABLE_PATIENCE:
            yield Problem("Unschedulable", f"pod {name}: {_shortened(scheduled.get('message', ''))}")


def _problem_of(container: dict[str, Any]) -> Problem | None:
    state, last = container.get("state") or {}, container.get("lastState") or {}
    ended = state.get("terminated") or last.get("terminated") or {}
    failed = ended if ended.get("exitCode", 0) != 0 else {}
    waiting = state.get("waiting") or {}
    if waiting.get("reason") in BROKEN:
        said = _last_words(failed) or _shortened(waiting.get("message", ""))
        return Problem(waiting["reason"], said or waiting["reason"])
    if failed and not container.get("ready"):
        return Problem(failed.get("reason") or "Error", _last_words(failed))
    return None


def _last_words(terminated: dict[str, Any]) -> str:
    """Why a container ended: its error as `octavo` tells it, else the last line of its log."""
    if not terminated:
        return ""
    lines = [line.strip(FRAME) for line in terminated.get("message", "").splitlines()]
    lines = [line for line in lines if line]
    told = [line for line in lines if line.startswith("octavo: ")]
    ended = f"ended with exit code {terminated.get('exitCode')}"
    if terminated.get("reason") == "OOMKilled":
        ended += " (out of memory)"
    words = (told or lines)[-1:]
    return f"{ended}: {_shortened(words[0])}" if words else ended


def _serves(endpoint: dict[str, Any]) -> bool:
    return endpoint.get("conditions", {}).get("ready") is not False and bool(endpoint.get("addresses"))


def _shortened(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= MESSAGE_LIMIT else f"{text[: MESSAGE_LIMIT - 1]}…"


def _seconds(time: str | None) -> float | None:
    return datetime.fromisoformat(time).timestamp() if time else None
