"""An InferenceModel as a typed value, with the defaults that the CRD has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from octavo.operator.autoscaler import Policy

GROUP = "serving.octavo.dev"
VERSION = "v1alpha1"
KIND = "InferenceModel"
PLURAL = "inferencemodels"
API_VERSION = f"{GROUP}/{VERSION}"

MAX_NAME = 57
"""Characters of a resource's name: `<name>-cache` must fit into 63."""

DEFAULT_SCALE_TO_ZERO_AFTER = 600
"""Seconds of idleness before a model with minReplicas 0 sleeps."""

URI = re.compile(
    r"hf://(?P<hf>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"|pvc://(?P<claim>[a-z0-9]([-.a-z0-9]*[a-z0-9])?)(?P<path>/.*)?"
    r"|file://(?P<file>/.+)"
    r"|builtin://(?P<builtin>smollm2)",
    re.ASCII,
)

CPU = "cpu"
"""For ranks that compute on the pod's processors."""

Share = Annotated[float, Field(gt=0, le=1)]


class SpecError(ValueError):
    """A resource that cannot be served as it is: its first wrong field, and the rule that it breaks."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field


class Part(BaseModel):
    """A part of a spec. What a newer schema has is passed over; what an older one lacks has its default."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_unset(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: entry for key, entry in value.items() if entry is not None}
        return value


class Cache(Part):
    """The volume for what is downloaded from Hugging Face."""

    size: str = "20Gi"
    storage_class_name: str | None = None
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"

    @field_validator("size", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value


class Model(Part):
    """Which model, and what clients call it."""

    name: str | None = None
    uri: str
    revision: str | None = None
    cache: Cache = Cache()

    @field_validator("uri")
    @classmethod
    def _known_place(cls, uri: str) -> str:
        if not URI.fullmatch(uri) or ".." in uri.split("/"):
            raise ValueError(
                "must be hf://org/name, pvc://claim/path, file:///path or builtin://smollm2, without '..' "
                f"(got {uri!r})"
            )
        return uri

    @model_validator(mode="after")
    def _revision_of_hf(self) -> Self:
        if self.revision and not self.uri.startswith("hf://"):
            raise ValueError("revision is for models from hf:// only")
        return self


class KVCache(Part):
    """The memory that pages keys and values."""

    memory: str | None = None
    dtype: Literal["auto", "int8"] = "auto"
    prefix_caching: bool = True


class Engine(Part):
    """Settings of the engine in every pod."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["auto", "none", "int8", "int4", "fp8"] = "auto"
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    kv_cache: KVCache = KVCache()
    extra_args: tuple[str, ...] = ()
    image: str | None = None


class Parallelism(Part):
    """Ranks per pod, and what each computes on."""

    tensor: Annotated[int, Field(ge=1, le=64)] = 1
    device: Annotated[str, Field(pattern=rf"^({CPU}|[a-z0-9.-]+/[A-Za-z0-9._-]+)$")] | None = None
    """An extended resource, or `CPU`. Unset, what `resources` name."""


class Scaling(Part):
    """How many pods, by load. Times in seconds, but for `scale_to_zero_after`."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    target_kv_utilization: Annotated[Share, Field(alias="targetKVUtilization")] = 0.7
    target_waiting_tokens: Annotated[int, Field(ge=1)] = 4096
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.1
    scale_up_stabilization_seconds: Annotated[int, Field(ge=0)] = 0
    scale_down_stabilization_seconds: Annotated[int, Field(ge=0)] = 300
    scale_to_zero_after: str | None = None
    """As in 1h30m."""

    @field_validator("scale_to_zero_after")
    @classmethod
    def _duration(cls, value: str | None) -> str | None:
        if value is not None:
            seconds(value)
        return value

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("minReplicas must not be greater than maxReplicas")
        return self

    @property
    def policy(self) -> Policy:
        """What the autoscaler is told."""
        idle = DEFAULT_SCALE_TO_ZERO_AFTER
        if self.scale_to_zero_after is not None:
            idle = seconds(self.scale_to_zero_after)
        return Policy(
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            target_kv_utilization=self.target_kv_utilization,
            target_waiting_tokens=self.target_waiting_tokens,
            tolerance=self.tolerance,
            scale_up_stabilization=self.scale_up_stabilization_seconds,
            scale_down_stabilization=self.scale_down_stabilization_seconds,
            scale_to_zero_after=idle,
        )


class Spec(Part):
    """What is served, and how. `routing` is the gateway's to read."""

    model: Model
    engine: Engine = Engine()
    parallelism: Parallelism = Parallelism()
    resources: dict[str, Any] = Field(default_factory=dict)
    scaling: Scaling = Scaling()
    pod_template: dict[str, Any] = Field(default_factory=dict)
    replicas: Annotated[int, Field(ge=0)] | None = None


class InferenceModel(BaseModel):
    """One resource: who it is, and its spec."""

    model_config = ConfigDict(frozen=True)

    name: str
    namespace: str
    uid: str
    generation: int
    created: str
    """RFC 3339, in UTC: strings in the order of time."""
    spec: Spec

    @property
    def model_name(self) -> str:
        """The name that clients give."""
        return self.spec.model.name or self.name


def parse(resource: Mapping[str, Any]) -> InferenceModel:
    """The resource as the API server has it. SpecError for one that cannot be served."""
    metadata = resource["metadata"]
    name = metadata["name"]
    if len(name) > MAX_NAME or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        raise SpecError(
            "metadata.name",
            f"must be at most {MAX_NAME} lower-case letters, digits and '-', and begin with a letter",
        )
    try:
        spec = Spec.model_validate(resource.get("spec") or {})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(["spec", *map(str, first["loc"])])
        raise SpecError(field, first["msg"].removeprefix("Value error, ")) from None
    return InferenceModel(
        name=name,
        namespace=metadata["namespace"],
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        created=metadata.get("creationTimestamp", ""),
        spec=spec,
    )


def seconds(duration: str) -> int:
    """Seconds of a duration such as 90s, 10m or 1h30m. ValueError for another one, or for none at all."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", duration, re.ASCII)
    if not match or not duration:
        raise ValueError(f"must be hours, minutes and seconds, such as 90s, 10m or 1h30m (got {duration!r})")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + rest
    if not 1 <= total <= 7 * 24 * 3600:
        raise ValueError(f"must be between 1s and 168h (got {duration!r})")
    return total
