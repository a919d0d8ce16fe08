"""What the ranks of a pod compute on: the devices that it asks for, its shared memory, the engine's flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from octavo.operator.model import CPU, SpecError

if TYPE_CHECKING:
    from octavo.operator.model import InferenceModel

DEFAULT_DEVICE = "nvidia.com/gpu"
"""Of several ranks, where nothing else is named."""

SHARED_MEMORY = 256
"""MiB of /dev/shm for each rank: NCCL takes some tens for two GPUs. What is not used is not taken."""

KINDS = ("requests", "limits")


def devices(resources: dict[str, Any]) -> list[str]:
    """The devices that resource requirements name: extended resources, `vendor/name`; Kubernetes' own have no
    slash."""
    return list(dict.fromkeys(name for kind in KINDS for name in resources.get(kind) or () if "/" in name))


def resources(model: InferenceModel) -> dict[str, Any]:
    """The spec's resources, with a device for each rank. SpecError for a count that does not match."""
    given, ranks, device = model.spec.resources, model.spec.parallelism.tensor, _device(model)
    if device is None:
        return given
    for kind in KINDS:
        count = (given.get(kind) or {}).get(device, ranks)
        if str(count) != str(ranks):
            rule = f"must be spec.parallelism.tensor, {ranks}, as each rank has one (got {count})"
            raise SpecError(f"spec.resources.{kind}.{device}", rule)
    # Kubernetes takes the limit of a device for its request.
    return {**given, "limits": {**(given.get("limits") or {}), device: ranks}}


def flags(model: InferenceModel) -> list[str]:
    """What `octavo serve` is told of its ranks."""
    parallelism = model.spec.parallelism
    made = [f"--tensor-parallel-size={parallelism.tensor}"] if parallelism.tensor > 1 else []
    return [*made, "--device=cpu"] if parallelism.device == CPU else made


def shared_memory(model: InferenceModel) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes and mounts. A container's own /dev/shm has 64 MiB, which several ranks outgrow."""
    ranks = model.spec.parallelism.tensor
    if ranks == 1:
        return [], []
    memory = {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY * ranks}Mi"}
    return [{"name": "shm", "emptyDir": memory}], [{"name": "shm", "mountPath": "/dev/shm"}]


def _device(model: InferenceModel) -> str | None:
    """What each rank gets one of; None where that is not ours to say, or nothing."""
    parallelism, named = model.spec.parallelism, devices(model.spec.resources)
    if parallelism.device == CPU:
        if named:
            rule = f"must not be {CPU}, because spec.resources asks for {', '.join(named)}"
            raise SpecError("spec.parallelism.device", rule)
        return None
    if parallelism.device is not None or parallelism.tensor == 1:
        return parallelism.device
    if len(named) > 1:
        rule = f"must say which of {', '.join(named)} each rank gets"
        raise SpecError("spec.parallelism.device", rule)
    return named[0] if named else DEFAULT_DEVICE
