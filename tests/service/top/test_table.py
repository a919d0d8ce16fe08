"""What `octavo top` draws, on wide and narrow terminals."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from octavo.service.top.snapshot import of_gateway, of_pod
from octavo.service.top.table import bar, table
from octavo.v1 import gateway_pb2
from tests.service.top.conftest import load, pod, pods


def drawn(
    response: gateway_pb2.WatchPodsResponse, width: int = 120, height: int | None = None, **more: str
) -> str:
    console = Console(width=width, record=True, force_terminal=False, file=StringIO())
    console.print(table(of_gateway("gw:50050", response), width, height, **more))
    return console.export_text()


def line_of(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


def test_a_line_for_each_pod_with_all_its_figures() -> None:
    text = drawn(pods(pod("10.0.0.1:50051", in_flight=7, load=load(held=43, waiting=12))))
    assert "gateway gw:50050 · 1 model, 1 pod · 42 tokens/s" in text
    words = line_of(text, "10.0.0.1").split()
    assert words[:3] == ["smollm2", "10.0.0.1:50051", "serving"]
    assert words[-6:] == ["43%", "43/100", "3", "12", "42", "7"]


def test_the_bar_is_as_long_as_the_cache_is_full() -> None:
    assert bar(0.5, 0.25, 8).plain == "████░░  "
    assert bar(0.0, 0.0, 4).plain == "    "
    assert bar(1.0, 0.0, 4).plain == "████"
    assert bar(0.3, 0.0, 5).plain == "█▌   "


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40))
def test_a_bar_has_always_its_width(held: float, cached: float, width: int) -> None:
    assert bar(held, cached, width).cell_len == width


@pytest.mark.parametrize(("held", "style"), [(0.5, "green"), (0.7, "yellow"), (0.95, "red")])
def test_the_fuller_the_warmer(held: float, style: str) -> None:
    assert bar(held, 0, 10).spans[0].style == style


def test_the_states_of_pods_are_told() -> None:
    connecting = gateway_pb2.Pod(address="c:1", state=gateway_pb2.POD_STATE_CONNECTING)
    text = drawn(pods(connecting, pod("d:1", "DRAINING"), pod("e:1", "EJECTED"), pod("s:1", age=7.4)))
    assert "connecting" in line_of(text, "c:1")
    assert "–" in line_of(text, "c:1")
    assert "draining" in line_of(text, "d:1")
    assert "ejected" in line_of(text, "e:1")
    assert "silent 7 s" in line_of(text, "s:1")


def test_a_model_without_pods_is_shown_with_who_waits_for_it() -> None:
    assert "no pods" in line_of(drawn(pods(model="asleep")), "asleep")
    assert "5 waiting" in line_of(drawn(pods(model="wanted", waiting=5)), "wanted")


def test_the_name_of_a_model_is_written_once() -> None:
    assert drawn(pods(pod("a:1"), pod("b:1"))).count("smollm2") == 1


def test_pods_are_in_the_order_of_their_numbers() -> None:
    text = drawn(pods(pod("10.0.0.10:1"), pod("10.0.0.9:1")))
    assert text.index("10.0.0.9:1") < text.index("10.0.0.10:1")


def test_a_pod_of_its_own_has_nothing_in_flight() -> None:
    console = Console(width=120, record=True, file=StringIO())
    console.print(table(of_pod("localhost:50051", "tiny", load()), 120))
    text = console.export_text()
    assert text.startswith("pod localhost:50051 · 42 tokens/s")
    assert line_of(text, "tiny").split()[-1] == "–"


@pytest.mark.parametrize("width", [40, 50, 60, 70, 80, 100, 140])
def test_it_fits_any_width(width: int) -> None:
    found = [pod(f"10.244.17.{number}:50051", load=load(held=12000, total=24000)) for number in range(3)]
    lines = drawn(pods(*found, model="meta-llama/Llama-3.1-8B-Instruct"), width).splitlines()
    assert len(lines) == 5
    assert max(len(line.rstrip()) for line in lines) <= width
    assert all("50%" in line for line in lines[2:])


def test_a_short_terminal_is_told_how_many_pods_it_does_not_show() -> None:
    text = drawn(pods(*(pod(f"10.0.0.{number}:1") for number in range(20))), height=10)
    lines = text.splitlines()
    assert len(lines) <= 10
    assert lines[-1] == "… 14 more"


def test_trouble_is_shown_above_the_last_figures() -> None:
    text = drawn(pods(pod()), trouble="gw:50050: UNAVAILABLE")
    assert "reconnecting: gw:50050: UNAVAILABLE" in text
    assert "10.0.0.1:50051" in text
