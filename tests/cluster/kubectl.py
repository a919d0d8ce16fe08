"""kubectl, as the tests use it: whatever cluster KUBECONFIG names."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import yaml


class CommandFailed(Exception):
    """A command that ended with something other than 0, with what it said."""


async def run(*command: str, text: str | None = None, seconds: float = 120) -> str:
    """The standard output of a command. CommandFailed with its standard error."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE if text is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(text.encode() if text else None), seconds)
    except TimeoutError:
        process.kill()
        raise CommandFailed(f"{' '.join(command)}: took longer than {seconds:g} s") from None
    if process.returncode:
        raise CommandFailed(f"{' '.join(command)}: {err.decode().strip()}\n{out.decode().strip()}")
    return out.decode()


class Kubectl:
    """Commands in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    async def __call__(self, *arguments: str, text: str | None = None, seconds: float = 120) -> str:
        return await run("kubectl", "-n", self.namespace, *arguments, text=text, seconds=seconds)

    async def get(self, *what: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self("get", *what, "-o", "json"))
        return found

    async def list(self, *what: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.get(*what))["items"]
        return items

    async def apply(self, resource: dict[str, Any]) -> None:
        await self("apply", "-f", "-", text=yaml.safe_dump(resource))

    async def patch(self, what: str, change: dict[str, Any]) -> None:
        await self("patch", *what.split("/"), "--type", "merge", "-p", json.dumps(change))

    async def until(
        self, what: str, holds: Callable[[dict[str, Any]], Any], seconds: float = 60
    ) -> dict[str, Any]:
        """The object, as soon as something holds of it; AssertionError with its last state else.

        The API server may be away meanwhile.
        """
        deadline = time.monotonic() + seconds
        last: object = None
        while time.monotonic() < deadline:
            try:
                last = found = await self.get(*what.split("/"))
                if holds(found):
                    return found
            except CommandFailed as error:
                last = error
            await asyncio.sleep(0.5)
        shown = yaml.safe_dump(last.get("status", last)) if isinstance(last, dict) else last
        raise AssertionError(f"{what} after {seconds:g} s:\n{shown}")


def status(resource: dict[str, Any]) -> dict[str, Any]:
    """What the operator has told of a resource; nothing at first."""
    found: dict[str, Any] = resource.get("status", {})
    return found


def condition(resource: dict[str, Any], kind: str) -> tuple[str, str]:
    """(status, reason) of one of a resource's conditions; ("", "") if it has none of that type."""
    for found in status(resource).get("conditions", []):
        if found["type"] == kind:
            return found["status"], found.get("reason", "")
    return "", ""


def is_ready(resource: dict[str, Any]) -> bool:
    observed = status(resource).get("observedGeneration")
    return condition(resource, "Ready")[0] == "True" and observed == resource["metadata"]["generation"]
