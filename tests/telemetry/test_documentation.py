"""docs/observability.md tells of every metric and every attribute that there is, and of no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from octavo.service.telemetry import definitions as of
from octavo.service.telemetry.attributes import SAMPLING

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "service/octavo/service/telemetry"
DASHBOARD = ROOT / "charts/octavo/dashboards/octavo.json"
METRICS = {definition.exposed_name for definition in (*of.ENGINE, *of.GATEWAY)}


@pytest.mark.parametrize("definition", [*of.ENGINE, *of.GATEWAY], ids=lambda each: each.name)
def test_a_metric_has_its_row(definition: of.Definition) -> None:
    kind = definition.kind.value.removeprefix("observed ")
    labels = ", ".join(f"`{label}`" for label in definition.labels if label not in COMMON[definition])
    assert f"| `{definition.exposed_name}` | {kind} | {labels} | {definition.description} |" in DOCUMENT


COMMON = {
    **dict.fromkeys(of.ENGINE, of.MODEL),
    **dict.fromkeys(of.GATEWAY, of.GATEWAY_MODEL),
}


def test_no_row_is_of_a_metric_that_is_not_there() -> None:
    assert set(re.findall(r"^\| `(octavo:\w+)`", DOCUMENT, re.MULTILINE)) == METRICS


def documented_attributes() -> set[str]:
    """The names in the first column of the table, `.name` standing for one with the namespace before it."""
    names = set()
    for row in re.findall(r"^\| (`\w+\.[^|]*) \|", DOCUMENT, re.MULTILINE):
        namespace = ""
        for name in re.findall(r"`([\w.*]+)`", row):
            if not name.startswith("."):
                namespace = name.rpartition(".")[0]
            names.add(namespace + name if name.startswith(".") else name)
    return names


def attributes_in_code() -> set[str]:
    pattern = r'"((?:gen_ai|octavo|rpc|http|url|client|server|error|user_agent|network)\.[a-z_.]+)"'
    files = ("attributes", "tracing", "engine_spans", "rpc", "http", "passage")
    sources = [*(PACKAGE / f"{file}.py" for file in files), PACKAGE.parent / "openai/completions.py"]
    found = {name for source in sources for name in re.findall(pattern, source.read_text())}
    return (found | set(SAMPLING.values())) - {"octavo."}


def test_every_attribute_is_documented() -> None:
    documented = documented_attributes()
    undocumented = {name for name in attributes_in_code() if name not in documented}
    assert not undocumented


def test_every_documented_attribute_is_there() -> None:
    in_code = attributes_in_code() | {"octavo.pick.score.total", "octavo.pick.score.*"}
    assert not documented_attributes() - in_code


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for panel in panels
        for target in panel.get("targets", ())
        for name in re.findall(r"octavo:\w+", target["expr"])
    }
    assert asked
    assert asked <= METRICS
