"""What speculation may lose: bounds that hold whatever estimates go wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

GUARD, GUARD_START, SAVINGS, DEBT = 0.02, 4.0, 8.0, 4.0
CURIOSITY, CURIOSITY_START, CURIOSITY_MOST = 0.01, 4.0, 4.0
WRITE_OFF, MOST_INVESTED = 64, 16.0


class Account:
    """All amounts are times in one unit; `plain` is always that of a step without guesses.

    balance: what guesses have brought, less what they have cost, plus 2 % of every step. While it is
        negative nothing is guessed, so all losses together stay within that. It is kept between -4 and 8
        plain steps: neither does a good hour pay for a bad one, nor one mistake bar guessing for long.
    curiosity: what may be given away to learn, compared with the best that is known: 1 % of every step.
    invested: what was spent once for sequences and is not paid for yet. It is charged to the balance
        over 64 steps or so, and paid by what would exceed the bound of that.
    """

    __slots__ = ("_is_open", "balance", "curiosity", "invested")

    def __init__(self) -> None:
        self._is_open = False
        self.balance = 0.0
        self.curiosity = 0.0
        self.invested = 0.0

    def settle(self, plain: float, gain: float, cost: float) -> None:
        """Books one step. gain: the time that the accepted guesses would have taken as plain steps;
        cost: the time that guessing and verifying took."""
        if not self._is_open:
            self._is_open = True
            self.balance, self.curiosity = GUARD_START * plain, CURIOSITY_START * plain
        balance = max(self.balance + GUARD * plain + gain - cost, -DEBT * plain)
        due = min(self.invested / WRITE_OFF, balance + DEBT * plain)
        surplus = max(balance - due - SAVINGS * plain, 0.0)
        self.invested = max(self.invested - due - surplus, 0.0)
        self.balance = min(balance - due, SAVINGS * plain)
        self.curiosity = min(self.curiosity + CURIOSITY * plain, CURIOSITY_MOST * plain)

    def invest(self, cost: float) -> None:
        """Books time that was spent once for a sequence."""
        self.invested += cost

    def affordable(self, costs: Items[float], plain: float) -> list[bool]:
        """Which of these may be invested in one step: up to 16 plain steps in all, or in one sequence
        whatever it needs; first come, first served."""
        total = self.invested
        found: list[bool] = []
        for cost in costs:
            may = not cost or total <= plain or total + cost <= MOST_INVESTED * plain
            total += cost * may
            found.append(may)
        return found

    def spend(self, cost: float) -> bool:
        """Takes it from `curiosity`, if there is as much."""
        if cost > self.curiosity:
            return False
        self.curiosity -= max(cost, 0.0)
        return True
