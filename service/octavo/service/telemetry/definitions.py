"""Every metric, defined once: OTLP, the Prometheus page and the documentation follow these tables.

Names, labels and buckets of the engine's metrics are vLLM's (vllm/v1/metrics/loggers.py), so that a dashboard
made for it needs another prefix only. An instrument of OpenTelemetry has no colon and no unit in its name:
`octavo.time_to_first_token` in seconds is `octavo:time_to_first_token_seconds` on the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MODEL = ("model_name", "engine")
FINISHED_REASON = "finished_reason"
FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")

FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
STEP_BUCKETS = (1.0, *(2.0**i for i in range(3, 15)))
OUTPUTS_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0)
SCORE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Kind(Enum):
    COUNTER = "counter"
    """Added to as things happen."""
    OBSERVED_COUNTER = "observed counter"
    """Read from a total that is kept elsewhere, whenever the metrics are collected."""
    GAUGE = "gauge"
    """Read from a state that is kept elsewhere, whenever the metrics are collected."""
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    unit: of UCUM; what stands in braces only says what is counted.
    buckets: upper bounds of a histogram's; None for 1, 2, 5, 10, 20, … up to the model's context length.
    """

    name: str
    kind: Kind
    description: str
    unit: str = "1"
    labels: tuple[str, ...] = MODEL
    buckets: tuple[float, ...] | None = None

    @property
    def exposed_name(self) -> str:
        """The name of the metric's samples on the Prometheus page, without _bucket, _sum and _count."""
        name = self.name.replace("octavo.", "octavo:", 1).replace(".", "_")
        if self.unit == "s":
            name += "_seconds"
        is_counter = self.kind in (Kind.COUNTER, Kind.OBSERVED_COUNTER)
        return f"{name}_total" if is_counter else name

    def bounds(self, max_model_len: int) -> tuple[float, ...]:
        return one_two_five(max_model_len) if self.buckets is None else self.buckets


def one_two_five(largest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50, … as far as they do not exceed `largest`."""
    bounds = (float(digit * 10**power) for power in range(len(str(largest))) for digit in (1, 2, 5))
    return tuple(bound for bound in bounds if bound <= largest)


def _counter(name: str, description: str, unit: str, labels: tuple[str, ...] = MODEL) -> Definition:
    return Definition(f"octavo.{name}", Kind.COUNTER, description, unit, labels)


def _total(name: str, description: str, unit: str, labels: tuple[str, ...] = MODEL) -> Definition:
    return Definition(f"octavo.{name}", Kind.OBSERVED_COUNTER, description, unit, labels)


def _gauge(name: str, description: str, unit: str = "1", labels: tuple[str, ...] = MODEL) -> Definition:
    return Definition(f"octavo.{name}", Kind.GAUGE, description, unit, labels)


def _seconds(
    name: str, description: str, buckets: tuple[float, ...], labels: tuple[str, ...] = MODEL
) -> Definition:
    return Definition(f"octavo.{name}", Kind.HISTOGRAM, description, "s", labels, buckets)


def _tokens(name: str, description: str, buckets: tuple[float, ...] | None = None) -> Definition:
    return Definition(f"octavo.{name}", Kind.HISTOGRAM, description, "{token}", MODEL, buckets)


# The engine's state, from its load.
KV_CACHE_USAGE = _gauge("kv_cache_usage_perc", "Share of the KV blocks that sequences hold, 0 to 1.")
REQUESTS_RUNNING = _gauge("num_requests_running", "Requests in the running batch.", "{request}")
REQUESTS_WAITING = _gauge(
    "num_requests_waiting", "Requests in the queue, preempted ones included.", "{request}"
)
CACHE_CONFIG = _gauge(
    "cache_config_info",
    "Always 1; its labels tell how the KV cache is made.",
    labels=("engine", "block_size", "num_gpu_blocks", "cache_dtype"),
)
# Totals of the engine, from its load.
PREFIX_CACHE_QUERIES = _total(
    "prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "{token}"
)
PREFIX_CACHE_HITS = _total("prefix_cache_hits", "Prompt tokens found in the prefix cache.", "{token}")
PREEMPTIONS = _total("num_preemptions", "Requests preempted to make room for others.", "{preemption}")
PROMPT_TOKENS = _total("prompt_tokens", "Tokens of prompts, cached ones included.", "{token}")
PROMPT_TOKENS_CACHED = _total("prompt_tokens_cached", "Tokens of prompts that were not computed.", "{token}")
GENERATION_TOKENS = _total("generation_tokens", "Tokens generated.", "{token}")
# Totals of its steps.
DRAFT_TOKENS = _total("spec_decode_num_draft_tokens", "Tokens that were guessed and verified.", "{token}")
ACCEPTED_TOKENS = _total("spec_decode_num_accepted_tokens", "Of these, the ones that came true.", "{token}")
# One observation a step, and one a token, which are recorded a step at a time.
ITERATION_TOKENS = _tokens("iteration_tokens_total", "Tokens that a step computed.", STEP_BUCKETS)
INTER_TOKEN_LATENCY = _seconds("inter_token_latency", "Time between a request's tokens.", TOKEN_BUCKETS)
# One observation a request: when its first token is there, and when it has ended.
TIME_TO_FIRST_TOKEN = _seconds(
    "time_to_first_token", "Time from a request's arrival to its first token.", FIRST_TOKEN_BUCKETS
)
REQUEST_SUCCESS = _counter(
    "request_success", "Requests that have ended, by why.", "{request}", (*MODEL, FINISHED_REASON)
)
E2E_LATENCY = _seconds("e2e_request_latency", "Time from a request's arrival to its end.", REQUEST_BUCKETS)
QUEUE_TIME = _seconds("request_queue_time", "Time until a request was first computed.", REQUEST_BUCKETS)
PREFILL_TIME = _seconds(
    "request_prefill_time", "Time from the first computation to the first token.", REQUEST_BUCKETS
)
DECODE_TIME = _seconds("request_decode_time", "Time from the first token to the last.", REQUEST_BUCKETS)
INFERENCE_TIME = _seconds(
    "request_inference_time", "Time from the first computation to the last token.", REQUEST_BUCKETS
)
TIME_PER_OUTPUT_TOKEN = _seconds(
    "request_time_per_output_token", "Mean time between a request's tokens.", TOKEN_BUCKETS
)
REQUEST_PROMPT_TOKENS = _tokens("request_prompt_tokens", "Tokens of a request's prompt.")
REQUEST_PREFILL_TOKENS = _tokens(
    "request_prefill_kv_computed_tokens", "Tokens of a request's prompt that were computed, not cached."
)
REQUEST_GENERATION_TOKENS = _tokens("request_generation_tokens", "Tokens of all outputs of a request.")
REQUEST_MAX_GENERATION_TOKENS = _tokens(
    "request_max_num_generation_tokens", "Tokens of a request's output, if it has one only."
)
REQUEST_N = Definition(
    "octavo.request_params_n",
    Kind.HISTOGRAM,
    "The number of outputs that requests ask for.",
    "{output}",
    MODEL,
    OUTPUTS_BUCKETS,
)
REQUEST_MAX_TOKENS = _tokens("request_params_max_tokens", "The max_tokens of requests that give it.")

ENGINE: tuple[Definition, ...] = (
    *(KV_CACHE_USAGE, REQUESTS_RUNNING, REQUESTS_WAITING, CACHE_CONFIG),
    *(PREFIX_CACHE_QUERIES, PREFIX_CACHE_HITS, PREEMPTIONS),
    *(PROMPT_TOKENS, PROMPT_TOKENS_CACHED, GENERATION_TOKENS, DRAFT_TOKENS, ACCEPTED_TOKENS),
    *(ITERATION_TOKENS, INTER_TOKEN_LATENCY, TIME_TO_FIRST_TOKEN, REQUEST_SUCCESS),
    *(E2E_LATENCY, QUEUE_TIME, PREFILL_TIME, DECODE_TIME, INFERENCE_TIME, TIME_PER_OUTPUT_TOKEN),
    *(REQUEST_PROMPT_TOKENS, REQUEST_PREFILL_TOKENS),
    *(REQUEST_GENERATION_TOKENS, REQUEST_MAX_GENERATION_TOKENS, REQUEST_N, REQUEST_MAX_TOKENS),
)

GATEWAY_MODEL = ("model_name",)

GATEWAY_REQUESTS = _counter(
    "gateway.requests", "Requests that have ended, by their gRPC code.", "{request}", ("model_name", "code")
)
GATEWAY_IN_FLIGHT = _gauge("gateway.requests_in_flight", "Requests under way.", "{request}", GATEWAY_MODEL)
GATEWAY_WAITING = _gauge(
    "gateway.requests_waiting_for_pod",
    "Requests that wait for any pod to be there.",
    "{request}",
    GATEWAY_MODEL,
)
GATEWAY_PICKS = _counter("gateway.picks", "Picks of a pod for a request.", "{pick}", ("model_name", "pod"))
GATEWAY_PICK_SCORE = Definition(
    "octavo.gateway.pick_score",
    Kind.HISTOGRAM,
    "Weighted score of the picked pod, 0 to 1.",
    "1",
    GATEWAY_MODEL,
    SCORE_BUCKETS,
)
GATEWAY_RESUBMISSIONS = _counter(
    "gateway.resubmissions", "Requests moved to another pod, by why.", "{request}", ("model_name", "reason")
)
GATEWAY_RETRIES_EXHAUSTED = _counter(
    "gateway.retries_exhausted",
    "Requests given up as the budget for retries was spent.",
    "{request}",
    GATEWAY_MODEL,
)
GATEWAY_FIRST_TOKEN = _seconds(
    "gateway.time_to_first_token",
    "Time from a request's arrival at the gateway to its first output.",
    FIRST_TOKEN_BUCKETS,
    GATEWAY_MODEL,
)
GATEWAY_DURATION = _seconds(
    "gateway.request_duration",
    "Time from a request's arrival at the gateway to its end.",
    REQUEST_BUCKETS,
    GATEWAY_MODEL,
)
GATEWAY_PODS = _gauge(
    "gateway.pods", "Pods that the gateway knows, by state.", "{pod}", ("model_name", "state")
)

GATEWAY: tuple[Definition, ...] = (
    *(GATEWAY_REQUESTS, GATEWAY_IN_FLIGHT, GATEWAY_WAITING, GATEWAY_PICKS, GATEWAY_PICK_SCORE),
    *(GATEWAY_RESUBMISSIONS, GATEWAY_RETRIES_EXHAUSTED, GATEWAY_FIRST_TOKEN, GATEWAY_DURATION, GATEWAY_PODS),
)
