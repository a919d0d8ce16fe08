"""Which pods a session belongs to: consistent hashing, so that all gateways agree without a word."""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left, insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

POINTS = 64
"""Places of each pod on the ring: shares then differ by about an eighth (1 ÷ √64)."""

FEW = 8
"""Pods that may come and go without sorting all points anew."""


class Ring:
    """Pods at pseudo-random points of a circle (Karger et al., Consistent Hashing and Random Trees, 1997).

    A session's pods are those met on the way round from its own point. When a pod comes, it takes a part of
    each of the others' sessions; when it goes, only its own move. Finding them takes O(log pods).
    """

    def __init__(self) -> None:
        self._pods: frozenset[str] = frozenset()
        self._points: list[int] = []
        """In order."""
        self._owners: dict[int, str] = {}

    def set(self, pods: Iterable[str]) -> None:
        """These are the pods from now on."""
        wanted = frozenset(pods)
        gone, new = self._pods - wanted, wanted - self._pods
        self._pods = wanted
        for pod in gone:
            for point in _points(pod):
                del self._owners[point]
        self._owners.update((point, pod) for pod in new for point in _points(pod))
        if len(gone) + len(new) > FEW:
            self._points = sorted(self._owners)
            return
        for pod in gone:
            for point in _points(pod):
                del self._points[bisect_left(self._points, point)]
        for pod in new:
            for point in _points(pod):
                insort(self._points, point)

    def order(self, session: str) -> Iterator[str]:
        """All pods, the session's own first."""
        seen: set[str] = set()
        points = self._points
        start = bisect_left(points, _hash(session))
        for i in range(start, start + len(points)):
            pod = self._owners[points[i % len(points)]]
            if pod not in seen:
                seen.add(pod)
                yield pod


def _points(pod: str) -> tuple[int, ...]:
    return struct.unpack(f"<{POINTS}Q", hashlib.shake_128(pod.encode()).digest(8 * POINTS))


def _hash(session: str) -> int:
    return int.from_bytes(hashlib.blake2b(session.encode(), digest_size=8).digest(), "little")
