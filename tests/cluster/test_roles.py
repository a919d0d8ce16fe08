"""Everything the tests before made Octavo do, it did with exactly the chart's roles."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import pytest

from tests.cluster.conftest import SYSTEM, Installation


def test_no_call_was_forbidden(installation: Installation) -> None:
    log = os.environ.get("AUDIT_LOG")
    if not log:
        pytest.skip("the API server's audit log cannot be read: AUDIT_LOG is not set")
    events = [json.loads(line) for line in Path(log).read_text().splitlines()]
    ours = [
        event
        for event in events
        if event["user"].get("username", "").startswith(f"system:serviceaccount:{SYSTEM}:")
        and datetime.fromisoformat(event["requestReceivedTimestamp"]) > installation.since
    ]
    assert {event["user"]["username"].rpartition(":")[2] for event in ours} >= {
        "octavo-operator",
        "octavo-gateway",
    }
    decisions: dict[str, set[str]] = defaultdict(set)
    for event in ours:
        path = event["requestURI"].partition("?")[0]
        decision = event.get("annotations", {}).get("authorization.k8s.io/decision", "")
        decisions[f"{event['user']['username']} {event['verb']} {path}"].add(decision)
    # An API server that has just started forbids what it has not read the roles of yet; and allows it then.
    assert [call for call, made in decisions.items() if "forbid" in made and "allow" not in made] == []
