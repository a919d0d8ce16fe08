"""The loads that pods tell, kept up to date by one stream per pod."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from octavo.operator.autoscaler import Load


@dataclass(frozen=True, slots=True)
class Sample:
    """A load, and how many seconds ago its pod told it."""

    load: Load
    age: float


class LoadWatcher:
    """Keeps an `Engine.WatchLoad` stream to each pod that it is told of, in a thread of its own.

    All methods may be called from any thread and don't wait for the network.
    """

    def __init__(
        self,
        interval: float = 1.0,
        on_change: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`interval`: seconds between two loads of a pod. `on_change(model)` is called in the watcher's
        thread, at most once per interval and model, when an idle model gets load or a queue appears."""

    def watch(self, model: str, pods: Mapping[str, str]) -> None:
        """From now on these are the model's pods: name → `host:port`. Streams to others of this model end."""
        raise NotImplementedError

    def forget(self, model: str) -> None:
        """Ends the streams to the model's pods."""
        raise NotImplementedError

    def snapshot(self, model: str) -> Mapping[str, Sample]:
        """The last load of each of the model's pods that has told one, by the pod's name."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends all streams and the thread."""
        raise NotImplementedError
