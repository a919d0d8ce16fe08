"""Which pods go first when there are to be fewer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from octavo.operator.autoscaler.observation import Pod

NOTHING_TO_LOSE = -100
UNKNOWN = 50
LEVELS = 10
FULL = 100


def deletion_costs(pods: Iterable[Pod]) -> Mapping[str, int]:
    """`controller.kubernetes.io/pod-deletion-cost` for each pod by name: the lower, the sooner it goes.

    -100 for a pod that serves nobody because it is not ready or leaves anyway; 0 for an idle one; 10 to 100
    by tenths of its blocks that are held, rounded up, so that small changes of load rarely change a cost; 100
    with a queue; 50 for a ready pod that does not tell its load.
    """
    return {pod.name: _cost(pod) for pod in pods}


def _cost(pod: Pod) -> int:
    load = pod.fresh_load
    if pod.leaving or (load is None and not pod.ready):
        return NOTHING_TO_LOSE
    if load is None:
        return UNKNOWN
    if not (load.held_blocks or load.running or load.waiting):
        return 0
    if load.waiting:
        return FULL
    tenths = -(-load.held_blocks * LEVELS // load.total_blocks) if load.total_blocks else LEVELS
    return FULL // LEVELS * min(max(tenths, 1), LEVELS)
