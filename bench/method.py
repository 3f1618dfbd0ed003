"""How numbers are made: interleaved rounds in random order, medians, bootstrap intervals."""

import dataclasses
import random
import statistics
from typing import Callable

BOOTSTRAP = 2000
# A run whose native baseline varies more than this is repeated, at most this often.
NATIVE_SPREAD_MAX = 2.0
ATTEMPTS = 3


@dataclasses.dataclass
class Samples:
    """Seconds (or another cost: less is better) of each variant, by round."""

    by_variant: dict[str, list[float]]
    attempts: int = 1
    unsteady: bool = False

    def median(self, variant: str) -> float:
        """The middle sample of a variant."""
        return statistics.median(self.by_variant[variant])

    def spread(self, variant: str) -> tuple[float, float]:
        """Smallest and largest sample."""
        return min(self.by_variant[variant]), max(self.by_variant[variant])

    def ratio(self, top: str, bottom: str) -> tuple[float, float, float]:
        """Median of `top` over median of `bottom`, and its 95 % interval.

        Rounds are resampled as pairs: what disturbed a round disturbed both.
        """
        pairs = list(zip(self.by_variant[top], self.by_variant[bottom]))
        rng = random.Random(1)
        drawn = []
        for _ in range(BOOTSTRAP):
            tops, bottoms = zip(*rng.choices(pairs, k=len(pairs)))
            drawn.append(statistics.median(tops) / statistics.median(bottoms))
        drawn.sort()
        low, high = drawn[int(BOOTSTRAP * 0.025)], drawn[int(BOOTSTRAP * 0.975)]
        return self.median(top) / self.median(bottom), low, high


def interleave(variants: dict[str, Callable[[], float]], rounds: int, native: str | None = None) -> Samples:
    """Runs every variant once a round, in a new random order each round.

    When `native` names a variant and its samples spread more than `NATIVE_SPREAD_MAX`, the
    machine was not quiet: all rounds are run again, and the steadiest attempt is kept.
    """
    rng = random.Random()
    best = None
    for attempt in range(1, ATTEMPTS + 1):
        samples = Samples({name: [] for name in variants}, attempt)
        for _ in range(rounds):
            order = list(variants)
            rng.shuffle(order)
            for name in order:
                samples.by_variant[name].append(variants[name]())
        if native is None:
            return samples
        low, high = samples.spread(native)
        samples.unsteady = high > NATIVE_SPREAD_MAX * low
        if best is None or _spread(samples, native) < _spread(best, native):
            best = samples
        if not samples.unsteady:
            break
    best.attempts = attempt
    return best


def _spread(samples: Samples, variant: str) -> float:
    low, high = samples.spread(variant)
    return high / low


@dataclasses.dataclass
class Row:
    """One line of the table."""

    id: str
    what: str
    value: float
    unit: str  # "x" for ratios
    target: str
    met: bool | None  # None: context, no target
    low: float | None = None
    high: float | None = None
    note: str = ""
    samples: dict | None = None


def speed_row(id: str, what: str, samples: Samples, ours: str, native: str, at_least: float, note: str = "") -> Row:
    """How fast `ours` is relative to `native` (above 1: faster), with a target."""
    value, low, high = samples.ratio(native, ours)
    return Row(id, what, value, "x", f">= {at_least}", value >= at_least, low, high, _remark(samples, note), samples.by_variant)


def cost_row(id: str, what: str, value: float, unit: str, at_most: float | None, note: str = "", samples: dict | None = None) -> Row:
    """A quantity of which less is better, with a target or (None) as context."""
    target = "" if at_most is None else f"<= {at_most:g}"
    return Row(id, what, value, unit, target, None if at_most is None else value <= at_most, note=note, samples=samples)


def _remark(samples: Samples, note: str) -> str:
    if samples.unsteady:
        note = f"{note}; " if note else ""
        return f"{note}native varied more than {NATIVE_SPREAD_MAX:g}x in {samples.attempts} attempts"
    return note
