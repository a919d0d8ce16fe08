"""kopf watches, and tells what it sees; nothing is decided here.

Only event handlers are registered: for these kopf keeps no state in the objects, and sets no finalizer. It
runs in a thread with a loop of its own, because it cancels what it finds in its loop when it ends, and so
that a watch that fails for good can be begun anew.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import kopf

from octavo.operator.cluster import in_cluster
from octavo.operator.desired.identity import MODEL_LABEL
from octavo.operator.kinds import MODEL, WATCHED
from octavo.operator.model import GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from octavo.operator.desired import Manifest
    from octavo.operator.kinds import Kind

log = logging.getLogger("octavo.operator.handlers")

SERVER_TIMEOUT = 240
"""Seconds, whole ones for the API server, after which it ends a watch, which is then begun anew."""
CLIENT_TIMEOUT = 270
"""Seconds after which a watch is given up, if the API server did not end it."""
PAUSE = 3.0
"""Seconds before watching is begun anew after it has failed."""
PULSE = 2.0
"""Seconds between two signs of life of the watching loop."""


class Watcher:
    """Watches the models and all that belongs to them, until stopped.

    `see(kind, manifest, gone)` is called in the watcher's thread.
    """

    def __init__(self, namespaces: Sequence[str], see: Callable[[Kind, Manifest, bool], None]) -> None:
        self._namespaces = tuple(namespaces)
        self._see = see
        self._stop = threading.Event()
        self._pulse = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    @property
    def silent_for(self) -> float:
        """Seconds since the last sign of life."""
        return time.monotonic() - self._pulse

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the watches; returns when the thread has ended, or after 5 s."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._watch())
            except Exception as error:
                log.warning("watching failed and is begun anew: %s", error or type(error).__name__)
            self._pulse = time.monotonic()
            self._stop.wait(PAUSE)

    async def _watch(self) -> None:
        where: dict[str, Any] = {"clusterwide": True}
        if self._namespaces:
            where = {"namespaces": self._namespaces}
        pulse = asyncio.create_task(self._beat())
        try:
            await kopf.operator(
                registry=_registry(self._see),
                settings=_settings(),
                standalone=True,
                stop_flag=self._stop,
                **where,
            )
        finally:
            pulse.cancel()

    async def _beat(self) -> None:
        while True:
            self._pulse = time.monotonic()
            await asyncio.sleep(PULSE)


def _registry(see: Callable[[Kind, Manifest, bool], None]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    login = kopf.login_with_service_account if in_cluster() else kopf.login_via_client
    kopf.on.login(registry=registry)(login)
    for kind in WATCHED:
        group, _, version = kind.api_version.rpartition("/")

        def seen(event: Any, kind: Kind = kind, **_: Any) -> None:
            see(kind, dict(event["object"]), event["type"] == "DELETED")

        where: Any = {"group": group, "version": version, "plural": kind.plural}
        kopf.on.event(**where, id=kind.plural, registry=registry)(_in_loop(seen))
    return registry


def _in_loop(handler: Callable[..., None]) -> Any:
    """kopf calls a coroutine in its loop, and a function in one of its threads, where order is lost."""

    async def handle(event: Any, **_: Any) -> None:
        handler(event)

    return handle


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = SERVER_TIMEOUT
    settings.watching.client_timeout = CLIENT_TIMEOUT
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    settings.networking.error_backoffs = (1, 1, 2, 3)
    # None of our handlers makes kopf store anything. Should one ever, this is where it goes.
    settings.persistence.finalizer = f"{GROUP}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    for kind in WATCHED:
        if kind is not MODEL:
            settings.watching.label_selectors[_is(kind)] = MODEL_LABEL
    return settings


def _is(kind: Kind) -> Callable[[kopf.Resource], bool]:
    group = kind.api_version.rpartition("/")[0]

    def matches(resource: kopf.Resource) -> bool:
        return resource.group == group and resource.plural == kind.plural

    return matches
