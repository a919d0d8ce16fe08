"""Which pods a session belongs to: consistent hashing, so that all gateways agree without a word."""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

POINTS = 64
"""Places of each pod on the ring: shares then differ by about an eighth (1 ÷ √64)."""


class Ring:
    """Pods at pseudo-random points of a circle (Karger et al., Consistent Hashing and Random Trees, 1997).

    A session's pods are those met on the way round from its own point. When a pod comes, it takes a part of
    each of the others' sessions; when it goes, only its own move. Finding them takes O(log pods).
    """

    def __init__(self) -> None:
        self._points: list[tuple[int, str]] = []

    def set(self, pods: Iterable[str]) -> None:
        """These are the pods from now on."""
        self._points = sorted((point, pod) for pod in pods for point in _points(pod))

    def order(self, session: str) -> Iterator[str]:
        """All pods, the session's own first."""
        seen: set[str] = set()
        points = self._points
        start = bisect_left(points, (_hash(session), ""))
        for i in range(start, start + len(points)):
            pod = points[i % len(points)][1]
            if pod not in seen:
                seen.add(pod)
                yield pod


def _points(pod: str) -> tuple[int, ...]:
    return struct.unpack(f"<{POINTS}Q", hashlib.shake_128(pod.encode()).digest(8 * POINTS))


def _hash(session: str) -> int:
    return int.from_bytes(hashlib.blake2b(session.encode(), digest_size=8).digest(), "little")
