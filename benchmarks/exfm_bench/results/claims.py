"""Claims, each judged by intervals: it holds, it does not, or its cases differ or cannot be told."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from exfm.evaluation.comparison import Comparison, MethodQuality
from exfm.evaluation.config import AUTO, KD, Method
from exfm.metrics.intervals import Interval
from exfm.report.distillation.series import changes, taught, told_changes, varied
from exfm.training.manifest import BASE_RATE, LOGISTIC, Excess
from exfm_bench.results.found import MOVIELENS, OPEN_BANDIT, Found, PartFound
from exfm_bench.results.over_worlds import (
    calibration,
    delta_ne,
    delta_ne_of_kd,
    of_worlds,
    relative_delta_ne,
    world_mean,
)

Outcome = Literal["yes", "no", "open"]
"""`open`: the interval has the bound in it."""

AH: Final = "ah"
AH_SA: Final = "ah+sa"

STALE, DOUBLED, SHUFFLED = "2-old", "doubled", "shuffled"
"""Teachers, as the settings name them."""

MAX_HURT = 0.001
"""The most that `auto` may cost in the mean, as a share of label-only's normalized entropy."""

CALIBRATED, OFF = 0.1, 0.3
"""Distance of a calibration from 1 within which it is right, and beyond which it is clearly wrong."""


@dataclass(frozen=True)
class Claim:
    """A sentence, and what each of its cases says of it."""

    sentence: str
    cases: tuple[Outcome, ...]

    def verdict(self) -> str:
        """Return it in words."""
        yes, no = (self.cases.count(outcome) for outcome in ("yes", "no"))
        if not yes + no:
            return "not resolved"
        if yes == len(self.cases):
            return "holds"
        if no == len(self.cases):
            return "does not hold"
        return f"holds in {yes} of {len(self.cases)} cases; the contrary in {no}"


def below(interval: Interval | None, bound: float = 0.0) -> Outcome:
    """Return whether a figure is below a bound."""
    if interval is None:
        return "open"
    return "yes" if interval.high < bound else "no" if interval.low > bound else "open"


def claims(found: Found) -> list[Claim]:
    """Return all claims, judged."""
    return [*_reference_lines(found), *_methods(found), *_bias(found), *_never_hurts(found.defaults), *_sizes(found)]


def teachers_of(comparison: Comparison) -> dict[str, str]:
    """Return what each teacher of a comparison is, in words, by the names that `over_worlds` takes."""
    return {"": "the run's own"} | {variant.name: told_changes(variant) for variant in comparison.config.teachers}


def _reference_lines(found: Found) -> Iterator[Claim]:
    sentence = "Models have less NE than base rate and logistic regression"
    yield Claim(f"{sentence}, {MOVIELENS}", tuple(map(_below, _excesses(found.movielens))))
    in_worlds = tuple(_below(excess) for world in found.worlds for excess in _excesses(world))
    yield Claim(f"{sentence}, each world", in_worlds)
    yield Claim(
        f"The interval of NE less the base rate's reaches 0, or lies below, {OPEN_BANDIT}",
        tuple("no" if (excess.low or 0) > 0 else "yes" for excess in _excesses(found.open_bandit, [BASE_RATE])),
    )


def interval_of(excess: Excess | None) -> Interval | None:
    """Return a model's entropy less a reference line's; None without an interval."""
    if excess is None or excess.low is None or excess.high is None:
        return None
    return Interval(value=excess.entropy, low=excess.low, high=excess.high)


def _below(excess: Excess) -> Outcome:
    return below(interval_of(excess))


def _excesses(part: PartFound, lines: Collection[str] = (BASE_RATE, LOGISTIC)) -> Iterator[Excess]:
    for model in part.lines:
        for task in model.tasks.values():
            yield from (excess for line, excess in task.over.items() if line in lines)


def _methods(found: Found) -> Iterator[Claim]:
    for method in (AH, AUTO):
        sentence = f"`{method}` has less NE than label-only"
        for name, part in found.parts().items():
            cases = tuple(below(quality.delta_ne) for quality in _qualities(part, "", method))
            yield Claim(f"{sentence}, {name}", cases)
        yield Claim(f"{sentence}, mean of worlds", (below(world_mean(found.tuned, "", method, delta_ne)),))


def _bias(found: Found) -> Iterator[Claim]:
    for teacher in (DOUBLED, STALE):
        sentence = f"`{AH_SA}` has less NE than tuned `{KD}`, teacher: {teachers_of(found.tuned[0])[teacher]}"
        cases = tuple(below(quality.delta_ne_of_kd) for quality in _qualities(found.movielens, teacher, AH_SA))
        yield Claim(f"{sentence}, {MOVIELENS}", cases)
        of_world = world_mean(found.tuned, teacher, AH_SA, delta_ne_of_kd)
        yield Claim(f"{sentence}, mean of worlds", (below(of_world),))
    ah, kd = (world_mean(found.defaults, DOUBLED, method, calibration) for method in (AH, KD))
    if ah and kd:
        is_right = ah.low >= 1 - CALIBRATED and ah.high <= 1 + CALIBRATED
        is_off = kd.low > 1 + OFF or kd.high < 1 - OFF
        by_default = "by default, teacher: pseudo-labels times 2, mean of worlds"
        yield Claim(f"The calibration of `{AH}` is within {CALIBRATED:g} of 1, {by_default}", (_outcome(is_right),))
        yield Claim(f"The calibration of `{KD}` is off by more than {OFF:g}, {by_default}", (_outcome(is_off),))


def _never_hurts(worlds: Sequence[Comparison]) -> Iterator[Claim]:
    for teacher, words in teachers_of(worlds[0]).items():
        hurt = world_mean(worlds, teacher, AUTO, relative_delta_ne)
        is_little = hurt is not None and hurt.high <= MAX_HURT
        yield Claim(
            f"`{AUTO}` costs at most {MAX_HURT:.1%} of NE by default, teacher: {words}, mean of worlds",
            (_outcome(is_little),),
        )
    differences = of_worlds(worlds, SHUFFLED, AUTO, delta_ne)
    yield Claim(
        f"`{AUTO}` has exactly label-only's NE by default, teacher: pseudo-labels shuffled, each world",
        tuple(_outcome(difference == 0) for difference in differences),
    )


def _sizes(found: Found) -> Iterator[Claim]:
    comparison = found.movielens.comparison
    cases: list[Outcome] = []
    for vertical in comparison.verticals:
        sizes = varied(vertical, comparison.config, "size")
        for task in vertical.tasks:
            for method in taught(comparison.config) if sizes else ():
                by_size = list(changes(vertical, task, method, sizes).values())
                cases.append(_falls(by_size[0], by_size[-1]))
    yield Claim(
        f"The largest foundation model teaches more than the smallest (intervals apart), {MOVIELENS}", tuple(cases)
    )


def _falls(first: Interval, last: Interval) -> Outcome:
    return "yes" if last.high < first.low else "no" if last.low > first.high else "open"


def _qualities(part: PartFound, teacher: str, method: Method) -> Iterator[MethodQuality]:
    """Yield the quality of a method with a teacher, or the run's own, of every vertical model and task."""
    for vertical in part.comparison.verticals:
        for task in vertical.tasks.values():
            compared = task.teachers.get(teacher or vertical.own())
            if compared and method in compared.methods:
                yield compared.methods[method]


def _outcome(holds: bool) -> Outcome:
    return "yes" if holds else "no"
