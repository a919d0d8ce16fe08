"""Requests and their results as attributes of spans, by OpenTelemetry's semantic conventions.

gen_ai.*: semantic-conventions-genai, "Inference"; rpc.*, http.*, server.*, error.type: semantic-conventions.
Names are written out, as the Python package marks its constants for gen_ai.* as moved away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.service.rpc.sampling import EARLY_STOPPING
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

    Attributes = dict[str, AttributeValue]

PROVIDER = "octavo"
FINISH_REASONS: Mapping[int, str] = {
    pb.FINISH_REASON_EOS: "stop",
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_CANCELLED: "cancelled",
    pb.FINISH_REASON_REPETITION: "repetition",
}
# Of SamplingParams; those without a name in the conventions have ours.
SAMPLING: Mapping[str, str] = {
    "n": "gen_ai.request.choice.count",
    "best_of": "octavo.request.best_of",
    "beam_width": "octavo.request.beam_width",
    "length_penalty": "octavo.request.length_penalty",
    "early_stopping": "octavo.request.early_stopping",
    "max_tokens": "gen_ai.request.max_tokens",
    "min_tokens": "octavo.request.min_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_k": "gen_ai.request.top_k",
    "top_p": "gen_ai.request.top_p",
    "min_p": "octavo.request.min_p",
    "seed": "gen_ai.request.seed",
    "repetition_penalty": "octavo.request.repetition_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "stop": "gen_ai.request.stop_sequences",
    "include_stop": "octavo.request.include_stop",
    "ignore_eos": "octavo.request.ignore_eos",
    "repetition_pattern": "octavo.request.repetition_pattern",
    "repetition_count": "octavo.request.repetition_count",
    "thinking_budget": "octavo.request.thinking_budget",
    "logprobs": "octavo.request.logprobs",
    "prompt_logprobs": "octavo.request.prompt_logprobs",
    "echo": "octavo.request.echo",
}
JSON_FORMS = ("json_schema", "json_object")


def operation(prompt: pb.Prompt) -> str:
    return "chat" if prompt.WhichOneof("input") == "chat" else "text_completion"


def span_name(operation_name: str, model: str) -> str:
    return f"{operation_name} {model}" if model else operation_name


def of_request(model: str, prompt: pb.Prompt, sampling: pb.SamplingParams) -> Attributes:
    """What was asked for, as far as it was set; never the prompt itself."""
    attributes: Attributes = {
        "gen_ai.operation.name": operation(prompt),
        "gen_ai.provider.name": PROVIDER,
    }
    if model:
        attributes["gen_ai.request.model"] = model
    for field, value in sampling.ListFields():
        if name := SAMPLING.get(field.name):
            attributes[name] = list(value) if field.is_repeated else _within_64_bits(value)
    if sampling.early_stopping:
        attributes[SAMPLING["early_stopping"]] = EARLY_STOPPING[sampling.early_stopping]
    if form := sampling.WhichOneof("structure"):
        attributes["octavo.request.structure"] = form
        attributes["gen_ai.output.type"] = "json" if form in JSON_FORMS else "text"
    return attributes


def of_usage(usage: pb.Usage) -> dict[str, int]:
    return of_counts(usage.prompt_tokens, usage.output_tokens, usage.cached_prompt_tokens)


def of_counts(prompt_tokens: int, output_tokens: int, cached_tokens: int) -> dict[str, int]:
    return {
        "gen_ai.usage.input_tokens": prompt_tokens,
        "gen_ai.usage.output_tokens": output_tokens,
        "gen_ai.usage.cache_read.input_tokens": cached_tokens,
    }


def of_server(address: str) -> Attributes:
    """server.address and server.port of host:port, or of unix:path, which has no port."""
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or not port.isdigit():
        return {"server.address": address.removeprefix("unix:")}
    return {"server.address": host.strip("[]"), "server.port": int(port)}


def of_peer(peer: str) -> Attributes:
    """client.address and client.port of a gRPC peer, such as ipv4:10.0.0.7:41234."""
    kind, _, address = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return {}
    host, _, port = address.rpartition(":")
    return {
        "client.address": host.strip("[]").replace("%5B", "").replace("%5D", ""),
        "client.port": int(port),
    }


def _within_64_bits(value: AttributeValue) -> AttributeValue:
    # An attribute is a signed number; a seed may be larger.
    return str(value) if isinstance(value, int) and value >= 2**63 else value
