"""A copy of a resource's objects, kept up to date by list and watch."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from octavo.service.gateway.kubernetes.api import Api, ApiError, Object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

log = logging.getLogger(__name__)

WATCH_SECONDS = 30
"""How long one watch lasts. A stalled one is found out soon after."""
LONGEST_PAUSE = 10.0
"""Seconds between attempts, once many have failed."""
GONE = 410

T = TypeVar("T")


class Mirror(Generic[T]):
    """What we need to know of each object of one resource (kubernetes.io, Efficient detection of changes).

    While the API server does not answer, the copy stays as it was. It is listed anew when the server no
    longer knows the version that the copy is of.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        read: Callable[[Object], T],
        changed: Callable[[], None],
        random: Random,
        selector: str = "",
        watch_seconds: int = WATCH_SECONDS,
    ) -> None:
        """read: takes what is needed out of an object. changed: called after each list and each change."""
        self.objects: dict[tuple[str, str], T] = {}
        """By namespace and name."""
        self.synced = False
        """Whether they have been listed."""
        self._api = api
        self._path = path
        self._read = read
        self._changed = changed
        self._random = random
        self._parameters = {"labelSelector": selector} if selector else {}
        self._watch_seconds = watch_seconds
        self._version: str | None = None

    async def run(self) -> None:
        """Keeps the copy up to date until it is cancelled."""
        failures = 0
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._watch()
                if failures:
                    log.info("%s: the API server answers again", self._path)
                failures = 0
            except ApiError as error:
                if error.code == GONE:
                    self._version = None
                else:
                    failures += 1
                level = logging.WARNING if failures == 1 and error.code != GONE else logging.DEBUG
                log.log(level, "%s: %s", self._path, error)
            except Exception:  # an object that we cannot read must not end the watch on all others
                log.exception("%s: unexpected error", self._path)
                self._version = None
                failures += 1
            pause = min(0.1 * 2**failures, LONGEST_PAUSE) * self._random.uniform(0.5, 1.0)
            await asyncio.sleep(pause)

    async def _list(self) -> None:
        items, version = await self._api.list(self._path, self._parameters)
        self.objects = {_key(item): self._read(item) for item in items}
        self._version = version
        self.synced = True
        self._changed()

    async def _watch(self) -> None:
        assert self._version is not None
        parameters = {**self._parameters, "resourceVersion": self._version, "allowWatchBookmarks": "true"}
        seconds = self._watch_seconds + self._random.randrange(1 + self._watch_seconds // 6)
        async for event in self._api.watch(self._path, parameters, seconds):
            self._take(event["type"], event["object"])

    def _take(self, kind: str, found: Object) -> None:
        if kind == "ERROR":
            raise ApiError(int(found.get("code", 0)), str(found.get("message", "")))
        self._version = found["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            self.objects.pop(_key(found), None)
        else:
            self.objects[_key(found)] = self._read(found)
        self._changed()


def _key(found: Mapping[str, Any]) -> tuple[str, str]:
    metadata = found["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
