"""The pick: of the pods that take requests, the one that would serve this request best."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from octavo.service.gateway.ring import Ring
from octavo.service.gateway.scorers import (
    LOAD_SCORERS,
    SESSION_AFFINITY,
    STALE_AFTER,
    PodView,
    RoutingPolicy,
    load_scores,
    session_affinity,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from random import Random

ON_THE_WAY = 0.05
"""Seconds from a pick until the pod's reports include it, at most."""
RESOLUTION = 4096
"""Totals that differ by less than 1 ÷ 4096 are a tie, more or less: see `_Shelves`."""
STAND_INS = 3
"""Pods of a session's order that its requests prefer."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a pick depends on.

    session: requests with the same one are better served by the same pod; empty for none.
    prompt_tokens: an estimate will do, such as a quarter of the prompt's bytes.
    sequences: that the request is computed as; they share its prompt.
    exclude: addresses to avoid, such as those that have failed this request. Used only if there are others.
    """

    session: str = ""
    prompt_tokens: int = 0
    exclude: frozenset[str] = frozenset()
    sequences: int = 1


class Choice(NamedTuple):
    """A pick's result. Hand it to `Picker.done` when the request has ended."""

    address: str
    scores: Mapping[str, float]
    """Each scorer's value for the pod, and `total`."""
    num_candidates: int
    pending: Pending


class Picker:
    """Keeps the pods in order of their scores, so that a pick takes the same few µs however many there are.

    A score is computed anew when its pod reports, when it is picked, and when its report is found to be
    stale. Between two reports the pod is charged with what was sent to it, so that a burst spreads.

    Times are seconds on any clock that never goes back; it is passed in, and so is the source of randomness.
    """

    def __init__(self, policy: RoutingPolicy, random: Random) -> None:
        self._policy = policy
        self._weigh()
        self._random = random
        self._entries: dict[str, _Entry] = {}
        self._shelves = _Shelves()
        self._ring = Ring()

    def __len__(self) -> int:
        return len(self._entries)

    def set_policy(self, policy: RoutingPolicy, now: float) -> None:
        if policy != self._policy:
            self._policy = policy
            self._weigh()
            for entry in self._entries.values():
                self._place(entry, now)

    def _weigh(self) -> None:
        """Notes what each pick and report needs of the policy."""
        self._weights = [(name, self._policy.weight(name)) for name in LOAD_SCORERS]
        self._total_weight = self._policy.total_weight
        self._affinity_share = self._policy.weight(SESSION_AFFINITY) / self._total_weight

    def set_members(self, addresses: Iterable[str]) -> None:
        """All pods of the model, whether they take requests or not; sessions are spread over these."""
        self._ring.set(addresses)

    def report(self, address: str, report: PodView, now: float) -> None:
        """The pod takes requests, and this is its load now (without pending and age)."""
        entry = self._entries.get(address)
        if entry is None:
            entry = self._entries[address] = _Entry(address, report, now)
        else:
            entry.report, entry.reported_at = report, now
            entry.forget_until(now - ON_THE_WAY)
        self._place(entry, now)

    def remove(self, address: str) -> None:
        """The pod takes no requests any longer."""
        entry = self._entries.pop(address, None)
        if entry is not None:
            self._shelves.remove(entry)

    def pick(self, query: Query, now: float) -> Choice | None:
        """The best pod by total score; None if there is none. Charges it with the request."""
        avoided = [self._entries[address] for address in query.exclude if address in self._entries]
        if len(avoided) == len(self._entries):
            avoided = []
        for entry in avoided:
            self._shelves.remove(entry)
        best, affinity = self._best(query, now)
        num_candidates = len(self._entries) - len(avoided)
        for entry in avoided:
            self._shelves.add(entry)
        if best is None:
            return None
        scores = load_scores(best.view(now))
        scores[SESSION_AFFINITY] = affinity
        scores["total"] = best.score + self._gain(affinity)
        pending = best.pend(now, query)
        self._place(best, now)
        return Choice(best.address, scores, num_candidates, pending)

    def take(self, address: str, query: Query, now: float) -> Choice | None:
        """One pod, whatever the scores say; None if it takes no requests. Charges it with the request."""
        entry = self._entries.get(address)
        if entry is None:
            return None
        scores = load_scores(entry.view(now))
        affinity = scores[SESSION_AFFINITY] = session_affinity(0, query.prompt_tokens)
        scores["total"] = entry.score + self._gain(affinity)
        pending = entry.pend(now, query)
        self._place(entry, now)
        return Choice(address, scores, 1, pending)

    def done(self, choice: Choice, now: float) -> None:
        """The request has ended, in whatever way; its pod is no longer charged with it."""
        entry = choice.pending.entry
        if entry.settle(choice.pending) and entry is self._entries.get(choice.address):
            self._place(entry, now)

    def _best(self, query: Query, now: float) -> tuple[_Entry | None, float]:
        """The best entry on the shelves and its affinity."""
        best, best_affinity = self._best_by_load(now), 0.0
        if best is None or not query.session or not self._gain(1.0):
            return best, best_affinity
        best_total = best.score
        for rank, entry in enumerate(islice(self._preferred(query.session), STAND_INS)):
            if now - entry.reported_at > STALE_AFTER:
                continue
            affinity = session_affinity(rank, query.prompt_tokens)
            total = entry.score + self._gain(affinity)
            if total > best_total or entry is best:
                best, best_total, best_affinity = entry, total, affinity
        return best, best_affinity

    def _best_by_load(self, now: float) -> _Entry | None:
        """The better of two from the top shelf, once no stale report is among them."""
        while True:
            two = self._shelves.two_of_top(self._random)
            outdated = [entry for entry in two if entry.is_stale(now) and not entry.known_stale]
            for entry in outdated:
                self._place(entry, now)
            if not outdated:
                return max(two, key=_score, default=None)

    def _preferred(self, session: str) -> Iterator[_Entry]:
        """The session's pods that may be picked, its own first."""
        for address in self._ring.order(session):
            entry = self._entries.get(address)
            if entry is not None and entry.shelf >= 0:
                yield entry

    def _gain(self, affinity: float) -> float:
        return affinity * self._affinity_share

    def _place(self, entry: _Entry, now: float) -> None:
        """Computes an entry's score, without what depends on the request, and puts it on its shelf."""
        scores = load_scores(entry.view(now))
        entry.score = sum(weight * scores[name] for name, weight in self._weights) / self._total_weight
        entry.known_stale = entry.is_stale(now)
        self._shelves.remove(entry)
        self._shelves.add(entry)


class Pending:
    """A pick that its pod's reports do not include yet."""

    __slots__ = ("entry", "picked_at", "sequences", "settled", "tokens")

    def __init__(self, entry: _Entry, picked_at: float, query: Query) -> None:
        self.entry = entry
        self.picked_at = picked_at
        self.tokens = max(1, query.prompt_tokens)
        self.sequences = query.sequences
        self.settled = False
        """Whether it is charged no longer."""


class _Entry:
    """A pod that takes requests."""

    __slots__ = (
        "address",
        "known_stale",
        "pending",
        "pending_requests",
        "pending_tokens",
        "place",
        "report",
        "reported_at",
        "score",
        "shelf",
    )

    def __init__(self, address: str, report: PodView, reported_at: float) -> None:
        self.address = address
        self.report = report
        self.reported_at = reported_at
        self.pending: deque[Pending] = deque()
        self.pending_requests = 0
        self.pending_tokens = 0
        self.score = 0.0
        self.known_stale = False
        self.shelf = -1
        self.place = -1

    def view(self, now: float) -> PodView:
        return self.report._replace(
            pending_requests=self.pending_requests,
            pending_tokens=self.pending_tokens,
            age=now - self.reported_at,
        )

    def is_stale(self, now: float) -> bool:
        return now - self.reported_at > STALE_AFTER

    def pend(self, now: float, query: Query) -> Pending:
        """Charges for a pick: for its prompt once, and as many requests as it makes sequences."""
        pending = Pending(self, now, query)
        self.pending.append(pending)
        self.pending_requests += pending.sequences
        self.pending_tokens += pending.tokens
        return pending

    def settle(self, pending: Pending) -> bool:
        """Charges no longer for a pick; False if it is not charged for."""
        if pending.settled:
            return False
        pending.settled = True
        self.pending_requests -= pending.sequences
        self.pending_tokens -= pending.tokens
        return True

    def forget_until(self, time: float) -> None:
        """Settles the picks up to a time: the pod tells of them itself."""
        while self.pending and (self.pending[0].settled or self.pending[0].picked_at <= time):
            self.settle(self.pending.popleft())


def _score(entry: _Entry) -> float:
    return entry.score


class _Shelves:
    """Entries by score, on shelves of 1 ÷ RESOLUTION each. Every operation takes the same time.

    Entries on one shelf are tied. Two of them are drawn at random, which is power of two choices
    (Mitzenmacher, 2001): gateways that see equal scores do not all rush to the same pod.
    """

    def __init__(self) -> None:
        self._shelves: list[list[_Entry]] = [[] for _ in range(RESOLUTION + 1)]
        self._filled = 0
        """Bit i: shelf i is not empty."""

    def add(self, entry: _Entry) -> None:
        entry.shelf = int(entry.score * RESOLUTION)
        shelf = self._shelves[entry.shelf]
        entry.place = len(shelf)
        shelf.append(entry)
        if not entry.place:
            self._filled |= 1 << entry.shelf

    def remove(self, entry: _Entry) -> None:
        """Takes an entry off its shelf, if it is on one."""
        if entry.shelf < 0:
            return
        shelf = self._shelves[entry.shelf]
        last = shelf.pop()
        if last is not entry:
            shelf[entry.place] = last
            last.place = entry.place
        if not shelf:
            self._filled ^= 1 << entry.shelf
        entry.shelf = entry.place = -1

    def two_of_top(self, random: Random) -> tuple[_Entry, ...]:
        """Two different entries from the highest shelf, or the only one, or none."""
        if not self._filled:
            return ()
        top = self._shelves[self._filled.bit_length() - 1]
        if len(top) == 1:
            return (top[0],)
        first = int(random.random() * len(top))
        second = int(random.random() * (len(top) - 1))
        return top[first], top[second + (second >= first)]
