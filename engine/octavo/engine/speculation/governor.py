"""How many tokens to guess for each sequence, so that guessing never costs more than it brings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from octavo.engine.speculation.acceptance import PRIOR, PRIOR_WEIGHT, Rates, Record, gains, results
from octavo.engine.speculation.account import CURIOSITY, Account
from octavo.engine.speculation.candidates import Candidate, Prices
from octavo.engine.speculation.choice import Allowance, Choice, choose
from octavo.engine.speculation.proposal_times import ProposalTimes
from octavo.engine.speculation.step_times import DOUBT, KNOWN, StepTimes

if TYPE_CHECKING:
    from collections.abc import Hashable
    from collections.abc import Sequence as Items

    from octavo.engine.speculation.proposer import Outlook

    Prospect = tuple[Hashable, Outlook]

MARGIN = 0.01
"""What guesses must promise to bring beyond their cost."""
CLOSE = 5.0
"""Standard errors, or so, of the time of a plain step. What guesses bring is not sure within as much."""
LEAST_INTERVAL = 8
"""Steps between two that are taken without guesses to learn how long these take."""
HORIZON = 64
"""Steps that a sequence is taken to go on for, where it is asked whether catching up with it pays."""
OUTLIER = 1.3
NEGLIGIBLE = 0.002


@dataclass(slots=True)
class _Step:
    """What became of one plan.

    kinds: by sequence, of the guesses that could be made.
    guessing, time: of guessing and of the step, in units of the level; 0 where it is not known.
    """

    num_decodes: int
    kinds: dict[Hashable, Items[int]]
    prices: Prices | None = None
    num_proposed: int = 0
    num_accepted: int = 0
    guessing: float = 0.0
    time: float = 0.0


class Governor:
    """Weighs the tokens that guesses are expected to bring against the time that they take.

    How often guesses are accepted is learned by sequence and kind of guess, beginning with what the
    engine has seen of the kind. Times are learned from the steps themselves. To learn what it does not
    know it also takes hopeful plans, and steps without guesses, within the bounds of the account. It
    knows no clock and draws no random numbers: the same calls lead to the same plans.

    In a step: `plan`, `proposed`, then `verified` for each draft, and `timed` if it had decodes only.
    """

    def __init__(self, num_kinds: int) -> None:
        self.times = StepTimes()
        self.account = Account()
        self._proposals = ProposalTimes()
        self._num_kinds = num_kinds
        self._rates = Rates(num_kinds, memory=256, half_life=512)
        self._records: dict[Hashable, Record] = {}
        self._now = 0
        self._compare_at = 0
        self._step: _Step | None = None

    def plan(self, prospects: Items[Prospect], num_others: int = 0) -> list[int]:
        """How many of the guesses in its outlook to make for each sequence.

        num_others: sequences that decode in the same step without guesses.
        """
        self._settle()
        self._now += 1
        kinds = {key: outlook.kinds for key, outlook in prospects if outlook.kinds}
        step = self._step = _Step(len(prospects) + num_others, kinds)
        nothing = [0] * len(prospects)
        if not kinds or self.account.balance < 0 or self.times.trust(step.num_decodes) < KNOWN:
            return nothing
        prices = step.prices = self._prices(step.num_decodes, sum(map(len, kinds.values())))
        engine = self._rates_of_engine()
        candidates = [self._candidate(key, outlook, engine) for key, outlook in prospects]
        best = self._best(candidates, prices)
        if best.total and self._now >= self._compare_at and self._is_close(best, prices):
            return nothing if self._compares(best, prices) else best.counts
        return self._bolder(best, candidates, prices).counts

    def proposed(self, rounds: int, lag: int, seconds: float, planning: float = 0.0) -> None:
        """What guessing took: rounds of guesses, tokens caught up with before, seconds, and seconds
        until it was known what to guess."""
        if self._step is None or not self.times.level:
            return
        time = seconds / self.times.level
        once = self._proposals.measure(rounds, lag, time, self.times.now)
        self.account.invest(once)
        self._step.guessing += time - once + planning / self.times.level

    def verified(self, key: Hashable, num_proposed: int, num_accepted: int) -> None:
        """A draft was computed, the first `num_proposed` guesses of the plan or all, and so many were
        right."""
        if self._step is None or key not in self._step.kinds:
            return
        self._step.num_proposed += num_proposed
        self._step.num_accepted += num_accepted
        record = self._records.get(key)  # none if the sequence has ended with the step
        for kind, right in results(self._step.kinds[key][:num_proposed], num_accepted):
            self._rates.learn(kind, right)
            if record is not None:
                record.learn(kind, right)

    def timed(self, num_tokens: int, num_seqs: int, seconds: float) -> None:
        """A step of decodes only took so long, without the guessing."""
        step = self._step
        if step is not None and num_tokens - num_seqs == step.num_proposed and self.times.level:
            step.time = seconds / self.times.level
        self.times.measure(num_tokens, num_seqs, seconds)

    def forget(self, key: Hashable) -> None:
        self._records.pop(key, None)

    def _best(self, candidates: Items[Candidate], prices: Prices) -> Choice:
        """What is best by all that is known, carefully."""
        doubt = DOUBT * self.times.noise / math.sqrt(self.times.trust(prices.num_decodes))
        least, times = prices.rate * (1 + MARGIN + doubt), prices.times.cautious[1:]
        expected = [candidate.expected for candidate in candidates]
        best = choose(expected, prices.num_decodes, times, prices.round, least)
        if any(c.catching_up for c, count in zip(candidates, best.counts, strict=True) if count):
            worth = self._are_worth_it(candidates, best, prices)
            expected = [row if pays else [] for row, pays in zip(expected, worth, strict=True)]
            best = choose(expected, prices.num_decodes, times, prices.round, least)
        return best if best.total else Choice(best.counts, prices.rate)

    def _are_worth_it(self, candidates: Items[Candidate], plan: Choice, prices: Prices) -> list[bool]:
        """For each candidate whether it is caught up with, or what is planned for it pays for that."""
        sharing = sum(count > 0 for count in plan.counts)
        pays = [
            not c.catching_up or c.catching_up <= HORIZON * prices.saving(c.expected[:count], sharing)
            for c, count in zip(candidates, plan.counts, strict=True)
        ]
        costs = [c.catching_up * pay for c, pay in zip(candidates, pays, strict=True)]
        return [a and b for a, b in zip(pays, self.account.affordable(costs, prices.plain), strict=True)]

    def _is_close(self, best: Choice, prices: Prices) -> bool:
        """Whether what guesses bring may be an error in what is known of steps without them."""
        error = self.times.noise / math.sqrt(self.times.trust(prices.num_decodes))
        return best.rate / prices.rate - 1 < CLOSE * error

    def _compares(self, best: Choice, prices: Prices) -> bool:
        """Whether the account pays for a step without guesses. If so, bolder plans get as much before
        the next."""
        cost = prices.plain - prices.num_decodes / best.rate
        if not self.account.spend(cost):
            return False
        self._compare_at = self._now + max(int(2 * cost / (CURIOSITY * prices.plain)), LEAST_INTERVAL)
        return True

    def _bolder(self, best: Choice, candidates: Items[Candidate], prices: Prices) -> Choice:
        """What would be better yet if what is not known well is as good as it may be, if there is such a
        thing and the account pays for it; else the best."""
        affordable = self.account.affordable([c.catching_up for c in candidates], prices.plain)
        hopeful = [c.hopeful if may else [] for c, may in zip(candidates, affordable, strict=True)]
        allowance = Allowance(
            gains=[c.sober(len(hopes)) for c, hopes in zip(candidates, hopeful, strict=True)],
            times=prices.times.cautious[1:],
            rate=best.rate,
            most=self.account.curiosity,
        )
        least, times = best.rate * (1 + MARGIN), prices.times.hopeful[1:]
        bold = choose(hopeful, prices.num_decodes, times, prices.round, least, allowance)
        return bold if bold.total and self.account.spend(bold.given) else best

    def _prices(self, num_decodes: int, most: int) -> Prices:
        times = self.times.forecast(num_decodes, most)
        time = self._proposals.round(self.times.now)
        return Prices(num_decodes, times, time if time > NEGLIGIBLE * times.usual[0] else 0.0)

    def _rates_of_engine(self) -> list[float]:
        self._rates.age(self._now)
        return self._rates.expected([PRIOR] * self._num_kinds, PRIOR_WEIGHT)

    def _candidate(self, key: Hashable, outlook: Outlook, engine: Items[float]) -> Candidate:
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = Record(Rates(self._num_kinds, memory=24, half_life=128))
        record.update(engine, self._now)
        return Candidate(
            gains(outlook.kinds, record.expected),
            gains(outlook.kinds, record.hopeful),
            self._proposals.catching_up(outlook.lag),
        )

    def _settle(self) -> None:
        """Books the last step. An outlier counts as not much more or less than a step like it usually
        takes."""
        step = self._step
        if step is None:
            return
        plain = time = self.times.plain(step.num_decodes)
        if step.num_proposed and step.prices is not None:
            usual = float(step.prices.times.usual[step.num_proposed])
            plain = step.prices.plain
            time = min(max(step.time or usual, usual / OUTLIER), usual * OUTLIER)
        if plain:
            gain = plain * step.num_accepted / step.num_decodes
            self.account.settle(plain, gain, time - plain + step.guessing)
