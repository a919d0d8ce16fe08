"""How well a pod would serve the next request: scorers, pure functions into 0..1, and their weights.

There are two kinds. A load scorer judges any pod by its load alone, so its value changes only when the load
does. A request scorer names the few pods that this request would be better served by, and how much; all
others have 0. A pod's total is the weighted mean of all its scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STALE_AFTER = 2.0
"""Seconds after which a report says nothing any longer."""
TOKENS_OF_A_STEP = 2048
"""Waiting tokens that halve the score: about what one step of a default engine computes."""

TOKENS_WORTH_KEEPING = 1000
"""Tokens of a prompt for which affinity counts half."""


class PodView(NamedTuple):
    """What is known of a pod: its last report, and what was sent there since.

    The report has the fields of `octavo.v1.Load`; the `pending` ones are picks that it cannot include. A
    request for several outputs counts once for each, its prompt's tokens once.
    """

    total_blocks: int
    held_blocks: int
    running: int
    waiting: int
    waiting_tokens: int
    max_num_seqs: int
    prefill_tokens: int = 0
    block_size: int = 16
    pending_requests: int = 0
    pending_tokens: int = 0
    age: float = 0.0
    """Seconds since the report came."""


def kv_utilization(view: PodView) -> float:
    """1 − blocks ÷ total, not below 0.

    blocks = held + ⌈(waiting tokens + pending tokens) ÷ block size⌉ + pending requests: what is held, and
    what those who wait and those on their way will hold once they run, with a partly filled block each.
    """
    if not view.total_blocks:
        return 0.0
    queued_tokens = view.waiting_tokens + view.pending_tokens
    queued = -(-queued_tokens // view.block_size) + view.pending_requests
    return max(0.0, 1.0 - (view.held_blocks + queued) / view.total_blocks)


def waiting_tokens(view: PodView) -> float:
    """1 ÷ (1 + tokens ÷ 2048), with the prompt tokens that are being computed, wait, or are on their way.

    A new request waits until these are computed. The score never reaches 0, so that of two overloaded pods
    the one with less before it is still the better.
    """
    tokens = view.prefill_tokens + view.waiting_tokens + view.pending_tokens
    return 1.0 / (1.0 + tokens / TOKENS_OF_A_STEP)


def running_requests(view: PodView) -> float:
    """1 ÷ (1 + requests ÷ places): places are the sequences that one step computes.

    Requests are those in the batch, in the queue and on their way. More of them make every step longer; more
    than there are places must wait for one to end.
    """
    requests = view.running + view.waiting + view.pending_requests
    return 1.0 / (1.0 + requests / (view.max_num_seqs or 64))


def session_affinity(rank: int, prompt_tokens: int) -> float:
    """½^rank × tokens ÷ (tokens + 1000), with the tokens of the prompt; 1000 if they are not known.

    `rank` is the pod's place in the session's order (see `octavo.service.gateway.ring`): 0 is the session's
    own, the next ones stand in for it. What a pod may have cached of the session is at most the prompt, so a
    short one, such as a session's first, goes where it is served at once.
    """
    tokens = prompt_tokens or TOKENS_WORTH_KEEPING
    return 0.5**rank * tokens / (tokens + TOKENS_WORTH_KEEPING)


LOAD_SCORERS: Mapping[str, Callable[[PodView], float]] = MappingProxyType(
    {
        "kvUtilization": kv_utilization,
        "waitingTokens": waiting_tokens,
        "runningRequests": running_requests,
    }
)
SESSION_AFFINITY = "sessionAffinity"
DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"kvUtilization": 1.0, "waitingTokens": 1.0, "runningRequests": 1.0, SESSION_AFFINITY: 3.0}
)


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """How a model's pods are compared. Scorers without a weight have their default; 0 turns one off."""

    weights: Mapping[str, float] = field(default_factory=dict)
    session_affinity: bool = True

    def weight(self, scorer: str) -> float:
        if scorer == SESSION_AFFINITY and not self.session_affinity:
            return 0.0
        return self.weights.get(scorer, DEFAULT_WEIGHTS[scorer])

    @property
    def total_weight(self) -> float:
        return sum(map(self.weight, DEFAULT_WEIGHTS)) or 1.0


def load_scores(view: PodView) -> dict[str, float]:
    """Every load scorer's value. A report older than 2 s counts as that of a full pod: all are 0."""
    if view.age > STALE_AFTER:
        return dict.fromkeys(LOAD_SCORERS, 0.0)
    return {name: scorer(view) for name, scorer in LOAD_SCORERS.items()}
