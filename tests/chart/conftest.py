"""The chart as helm renders it. Without helm on PATH these tests are skipped."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts" / "octavo"

Resource = dict[str, Any]
Render = Callable[..., "Resources"]


class Resources(list[Resource]):
    """What a chart renders to."""

    def one(self, kind: str, name: str) -> Resource:
        (found,) = (each for each in self if each["kind"] == kind and each["metadata"]["name"] == name)
        return found

    def kinds(self) -> set[str]:
        return {each["kind"] for each in self}

    def pods(self) -> dict[str, Resource]:
        """Pod specs by their owner's name."""
        owners = {each["metadata"]["name"]: each for each in self if each["kind"] in ("Deployment", "Pod")}
        return {
            name: owner["spec"]["template"]["spec"] if owner["kind"] == "Deployment" else owner["spec"]
            for name, owner in owners.items()
        }


class Refused(Exception):
    """What helm says instead of rendering."""


@pytest.fixture(scope="session")
def helm() -> str:
    found = shutil.which("helm")
    if found is None:
        pytest.skip("helm is not on PATH")
    return found


@pytest.fixture
def render(helm: str) -> Render:
    """`render("gateway.replicas=3")`: the resources of release octavo in namespace serving. Refused."""

    def run(*values: str, apis: tuple[str, ...] = ()) -> Resources:
        command = [helm, "template", "octavo", str(CHART), "--namespace", "serving", "--kube-version", "1.34"]
        command += [f"--set={value}" for value in values] + [f"--api-versions={api}" for api in apis]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused(done.stderr)
        return Resources(each for each in yaml.safe_load_all(done.stdout) if each)

    return run
