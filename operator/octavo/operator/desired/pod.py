"""The engine pod: `octavo serve` with the spec's settings, confined as the restricted standard asks.

Source: Kubernetes' "Pod Security Standards", profile restricted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from octavo.operator.desired.devices import flags, resources, shared_memory
from octavo.operator.desired.identity import labels, selector
from octavo.operator.desired.source import source
from octavo.operator.model import SpecError
from octavo.operator.strategic_merge import MergeError, strategic_merge

if TYPE_CHECKING:
    from octavo.operator.desired.identity import Manifest
    from octavo.operator.desired.platform import Platform
    from octavo.operator.model import InferenceModel

CONTAINER = "engine"
GRPC_PORT = 50051
HTTP_PORT = 8000

USER = 65532
"""Who the engine runs as, in pods: nobody in particular."""

TERMINATION_GRACE = 45
"""Seconds between SIGTERM and SIGKILL, unless podTemplate says otherwise."""

GRACE_MARGIN = 10
"""Seconds that a drained server has to end before it is killed."""

LOADING_LIMIT = 3600
"""Seconds that a model may take to download and load before its container is started again."""


def pod_template(model: InferenceModel, platform: Platform) -> Manifest:
    """The template with the spec's podTemplate merged over it. SpecError says what does not fit."""
    made = {
        "metadata": {
            "labels": labels(model.name),
            "annotations": {"kubectl.kubernetes.io/default-container": CONTAINER},
        },
        "spec": _pod(model, platform),
    }
    try:
        merged = strategic_merge(made, model.spec.pod_template, "spec.podTemplate")
    except MergeError as error:
        raise SpecError(error.path, str(error).removeprefix(f"{error.path}: ")) from None
    merged["metadata"]["labels"] = {**merged["metadata"].get("labels", {}), **labels(model.name)}
    return merged


def _pod(model: InferenceModel, platform: Platform) -> dict[str, Any]:
    grace = _termination_grace(model)
    return {
        "serviceAccountName": model.name,
        "automountServiceAccountToken": False,
        # Kubernetes would otherwise describe Services whose names begin with octavo as OCTAVO_ variables.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "topologyKey": "kubernetes.io/hostname",
                "maxSkew": 1,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(model.name)},
            }
        ],
        "containers": [_engine(model, platform, grace)],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            *shared_memory(model)[0],
            *source(model).volumes,
        ],
    }


def _engine(model: InferenceModel, platform: Platform, termination_grace: int) -> dict[str, Any]:
    asked = resources(model)
    image = model.spec.engine.image or platform.image_for(asked)
    if not image:
        raise SpecError("spec.engine.image", "must be set, because the operator was given no default image")
    health = {"grpc": {"port": GRPC_PORT}}
    environment = {
        "OTEL_SERVICE_NAME": "octavo-engine",
        **platform.engine_environment,
        **source(model).environment,
        "HOME": "/tmp",
    }
    return {
        "name": CONTAINER,
        "image": image,
        "command": ["octavo"],
        "args": arguments(model, termination_grace),
        "env": [
            *({"name": name, "value": value} for name, value in environment.items()),
            *(
                {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
                for name, path in (("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"))
            ),
            {
                "name": "OTEL_RESOURCE_ATTRIBUTES",
                "value": "k8s.pod.name=$(POD_NAME),k8s.namespace.name=$(POD_NAMESPACE)",
            },
        ],
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
        ],
        "resources": asked,
        "startupProbe": {**health, "periodSeconds": 1, "failureThreshold": LOADING_LIMIT},
        "readinessProbe": {**health, "periodSeconds": 2, "timeoutSeconds": 3, "failureThreshold": 2},
        # A machine under load answers late; only what hangs for a minute is started again.
        "livenessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            *shared_memory(model)[1],
            *source(model).mounts,
        ],
    }


def arguments(model: InferenceModel, termination_grace: int) -> list[str]:
    """The arguments of `octavo`: every setting of the spec reaches the engine."""
    engine = model.spec.engine
    made = [
        "serve",
        source(model).argument,
        "--host=0.0.0.0",
        f"--port={GRPC_PORT}",
        "--http",
        f"--http-port={HTTP_PORT}",
        f"--served-name={model.model_name}",
        f"--grace-period={max(1, termination_grace - GRACE_MARGIN)}",
        *source(model).flags,
        *flags(model),
        f"--dtype={engine.dtype}",
    ]
    if engine.quantization != "auto":
        made.append(f"--quantization={engine.quantization}")
    if engine.max_model_len is not None:
        made.append(f"--max-model-len={engine.max_model_len}")
    if engine.kv_cache.memory is not None:
        made.append(f"--kv-cache-memory={engine.kv_cache.memory}")
    if engine.kv_cache.dtype != "auto":
        made.append(f"--kv-cache-dtype={engine.kv_cache.dtype}")
    if not engine.kv_cache.prefix_caching:
        made.append("--no-prefix-caching")
    return [*made, *engine.extra_args]


def _termination_grace(model: InferenceModel) -> int:
    """What podTemplate says, since the server's own grace period must end before it."""
    spec = model.spec.pod_template.get("spec") or {}
    grace = spec.get("terminationGracePeriodSeconds", TERMINATION_GRACE) if isinstance(spec, dict) else None
    if not isinstance(grace, int) or grace < 1:
        raise SpecError(
            "spec.podTemplate.spec.terminationGracePeriodSeconds", f"must be at least 1 (got {grace!r})"
        )
    return grace
