"""The picker: the best pod for each request, in constant time, and bursts that spread."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.service.gateway.picker import ON_THE_WAY, RESOLUTION, Choice, Picker, Query
from octavo.service.gateway.ring import Ring
from octavo.service.gateway.scorers import LOAD_SCORERS, STALE_AFTER, PodView, RoutingPolicy, load_scores

IDLE = PodView(total_blocks=1000, held_blocks=0, running=0, waiting=0, waiting_tokens=0, max_num_seqs=64)
loads = st.fixed_dictionaries(
    {
        "held_blocks": st.integers(0, 1000),
        "running": st.integers(0, 64),
        "waiting": st.integers(0, 200),
        "waiting_tokens": st.integers(0, 20_000),
    }
).map(lambda load: IDLE._replace(**load))


def picker_of(*reports: PodView, policy: RoutingPolicy | None = None, seed: int = 0) -> Picker:
    """Pods a, b, c… that have just reported, at time 0."""
    picker = Picker(policy or RoutingPolicy(), Random(seed))
    names = [chr(ord("a") + i) for i in range(len(reports))]
    picker.set_members(names)
    for name, report in zip(names, reports, strict=True):
        picker.report(name, report, 0.0)
    return picker


def pick(picker: Picker, query: Query | None = None, now: float = 0.0) -> Choice:
    choice = picker.pick(query or Query(), now)
    assert choice is not None
    return choice


def total(policy: RoutingPolicy, view: PodView) -> float:
    scores = load_scores(view)
    return sum(policy.weight(name) * scores[name] for name in LOAD_SCORERS) / policy.total_weight


@given(st.lists(loads, min_size=1, max_size=12), st.integers(0, 99))
def test_the_pick_is_the_best_of_all_within_the_resolution(reports: list[PodView], seed: int) -> None:
    choice = pick(picker_of(*reports, seed=seed))
    best = max(total(RoutingPolicy(), report) for report in reports)
    assert best - 1 / RESOLUTION <= choice.scores["total"] <= best
    assert choice.num_candidates == len(reports)


@given(pods=st.integers(1, 20), burst=st.integers(0, 200), tokens=st.integers(1, 4000))
def test_a_burst_spreads_evenly_over_equal_pods_before_they_report(
    pods: int, burst: int, tokens: int
) -> None:
    picker = picker_of(*[IDLE] * pods)
    picks = Counter(pick(picker, Query(prompt_tokens=tokens)).address for _ in range(burst))
    assert max(picks.values(), default=0) - min(picks[chr(ord("a") + i)] for i in range(pods)) <= 1


def test_nobody_is_picked_when_nobody_takes_requests() -> None:
    picker = picker_of(IDLE)
    picker.remove("a")
    assert picker.pick(Query(), 0.0) is None


def test_a_pick_charges_its_pod_until_a_report_can_include_it() -> None:
    picker = picker_of(IDLE, IDLE._replace(held_blocks=10))
    assert pick(picker, Query(prompt_tokens=4000)).address == "a"
    picker.report("a", IDLE, ON_THE_WAY / 2)  # made before the request came
    assert pick(picker, Query(prompt_tokens=1)).address == "b"
    picker.report("a", IDLE, ON_THE_WAY * 2)
    assert pick(picker, now=ON_THE_WAY * 2).address == "a"


def test_a_request_is_charged_for_all_its_sequences_and_once_for_their_prompt() -> None:
    picker = picker_of(IDLE)
    several = pick(picker, Query(prompt_tokens=160, sequences=8))
    charged = IDLE._replace(pending_requests=8, pending_tokens=160)
    again = pick(picker)
    assert {name: again.scores[name] for name in LOAD_SCORERS} == load_scores(charged)
    picker.done(several, 0.0)
    picker.done(again, 0.0)
    idle = pick(picker)
    assert {name: idle.scores[name] for name in LOAD_SCORERS} == load_scores(IDLE)


def test_a_request_that_has_ended_is_charged_no_longer() -> None:
    picker = picker_of(IDLE, IDLE._replace(held_blocks=10))
    choice = pick(picker, Query(prompt_tokens=4000))
    picker.done(choice, 0.0)
    assert pick(picker).address == choice.address == "a"


def test_a_pod_that_has_come_back_is_not_credited_for_requests_of_before() -> None:
    picker = picker_of(IDLE, IDLE)
    before = pick(picker, Query(exclude=frozenset("b")))
    picker.remove("a")
    picker.report("a", IDLE, 1.0)
    now = pick(picker, Query(exclude=frozenset("b")), 1.0)
    picker.done(before, 1.0)
    assert pick(picker, now=1.0).address == "b"
    picker.done(now, 1.0)


def test_a_pod_with_stale_load_is_picked_only_when_all_others_are_full() -> None:
    picker = picker_of(IDLE, IDLE._replace(held_blocks=990, running=64))
    late = STALE_AFTER + 0.5
    picker.report("b", IDLE._replace(held_blocks=990, running=64), late)
    assert [pick(picker, now=late).address for _ in range(5)] == ["b"] * 5
    picker.remove("b")
    assert pick(picker, now=late).address == "a"


def test_a_stale_pod_is_not_preferred_by_its_sessions_either() -> None:
    picker = picker_of(IDLE, IDLE)
    own = pick(picker, Query("s")).address
    other = "b" if own == "a" else "a"
    picker.report(other, IDLE._replace(running=40), STALE_AFTER + 0.5)
    assert pick(picker, Query("s"), STALE_AFTER + 0.5).address == other


def test_excluded_pods_are_picked_only_if_there_are_no_others() -> None:
    picker = picker_of(IDLE, IDLE._replace(running=60))
    choice = pick(picker, Query(exclude=frozenset("a")))
    assert (choice.address, choice.num_candidates) == ("b", 1)
    choice = pick(picker, Query(exclude=frozenset("ab")))
    assert (choice.address, choice.num_candidates) == ("a", 2)


@given(st.text(min_size=1), st.integers(2, 20))
def test_a_session_stays_at_its_pod_while_loads_are_alike(session: str, pods: int) -> None:
    picker = picker_of(*[IDLE] * pods)
    choices = []
    for _ in range(5):
        choices.append(pick(picker, Query(session, 100)))
        picker.done(choices[-1], 0.0)
    assert len({choice.address for choice in choices}) == 1
    assert choices[0].scores["sessionAffinity"] > 0


def test_a_session_leaves_its_pod_when_that_is_overloaded() -> None:
    picker = picker_of(IDLE, IDLE)
    own = pick(picker, Query("s")).address
    full = IDLE._replace(held_blocks=1000, running=64, waiting=100, waiting_tokens=50_000)
    picker.report(own, full, 1.0)
    assert pick(picker, Query("s"), 1.0).address != own


def test_two_gateways_agree_on_a_session_s_pod() -> None:
    one, other = (picker_of(*[IDLE] * 9, seed=seed) for seed in (1, 2))
    for i in range(50):
        ours, theirs = pick(one, Query(f"s{i}")), pick(other, Query(f"s{i}"))
        assert ours.address == theirs.address
        one.done(ours, 0.0)
        other.done(theirs, 0.0)


def test_without_affinity_sessions_make_no_difference() -> None:
    picker = picker_of(*[IDLE] * 8, policy=RoutingPolicy(session_affinity=False))
    assert len({pick(picker, Query("s")).address for _ in range(8)}) == 8


def test_a_new_policy_counts_from_the_next_pick_on() -> None:
    busy, full = IDLE._replace(running=64), IDLE._replace(held_blocks=900)
    picker = picker_of(busy, full, policy=RoutingPolicy({"runningRequests": 0.0}))
    assert pick(picker).address == "a"
    picker.set_policy(RoutingPolicy({"kvUtilization": 0.0}), 0.0)
    assert pick(picker).address == "b"


def test_equal_pods_are_drawn_by_chance_so_that_gateways_do_not_rush_to_one() -> None:
    first = {pick(picker_of(*[IDLE] * 10, seed=seed)).address for seed in range(60)}
    assert len(first) > 7


@settings(max_examples=30)
@given(st.sets(st.text(min_size=1, max_size=8), min_size=2, max_size=12), st.data())
def test_only_the_sessions_of_a_pod_that_goes_move(pods: set[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(pods)))
    before, after = Ring(), Ring()
    before.set(pods)
    after.set(pods - {gone})
    for i in range(50):
        own = next(before.order(f"s{i}"))
        assert own == gone or own == next(after.order(f"s{i}"))


def test_sessions_are_shared_out_evenly() -> None:
    ring = Ring()
    ring.set(f"10.0.0.{i}:50051" for i in range(10))
    shares = Counter(next(ring.order(f"s{i}")) for i in range(10_000))
    assert max(shares.values()) < 2 * min(shares.values())


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["report", "remove", "pick", "done"]))))
def test_whatever_happens_a_pick_is_a_pod_that_takes_requests(events: list[tuple[str, str]]) -> None:
    picker, serving, choices, now = picker_of(), set[str](), list[Choice](), 0.0
    for name, event in events:
        now += 0.3
        if event == "report":
            picker.report(name, IDLE, now)
            serving.add(name)
        elif event == "remove":
            picker.remove(name)
            serving.discard(name)
        elif event == "done" and choices:
            picker.done(choices.pop(), now)
        elif event == "pick":
            choice = picker.pick(Query(name, 10, frozenset(name)), now)
            assert (choice is None) == (not serving)
            if choice is not None:
                assert choice.address in serving
                choices.append(choice)
    assert len(picker) == len(serving)
