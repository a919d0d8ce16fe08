"""How many pods a model should have: a pure function of its policy, its load and its recent past.

`decide` reads no clock and draws no random number: the same arguments give the same decision in every
operator. docs/autoscaling.md has the formulas.
"""

from octavo.operator.autoscaler.decision import Decision, Signal
from octavo.operator.autoscaler.deletion import deletion_costs
from octavo.operator.autoscaler.memory import Memory
from octavo.operator.autoscaler.observation import Demand, Load, Observation, Pod
from octavo.operator.autoscaler.policy import Policy
from octavo.operator.autoscaler.replicas import decide

__all__ = [
    "Decision",
    "Demand",
    "Load",
    "Memory",
    "Observation",
    "Pod",
    "Policy",
    "Signal",
    "decide",
    "deletion_costs",
]
