"""Whether a candidate may become champion: figures on windows that neither had learned, each compared with a bound."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from exfm.config import Config
from exfm.metrics.intervals import Interval

SIGNIFICANT = 2.0
"""Standard errors by which a loss must exceed another one to count as worse: by chance one case in 40 does."""

Outcome = Literal["passed", "refused", "nothing new"]


class PromotionRule(Config):
    """The bounds of a candidate's figures."""

    max_ne_increase: Annotated[float, Field(ge=0, le=1)] = 0.0005
    """Tolerated increase of normalized entropy over the champion's, as a share of it; 0 to 1. The lower end of the
    increase's 95 % interval is held against it. 0: none that is beyond chance."""
    max_estimated_ne_increase: Annotated[float, Field(ge=0, le=1)] = 0.02
    """The same for the increase itself, which chance may explain; 0 to 1. 0: none at all. 1: only what is beyond chance
    counts."""
    max_calibration_error: Annotated[float, Field(ge=0, le=10)] = 0.1
    """Distance of calibration (sum of predictions over sum of labels) from 1; 0 to 10. If the champion's
    distance on the same examples is larger, that is the bound."""


class TaskFigures(Config):
    """The quality of one task's predictions on all examples of the judged windows."""

    task: str
    num_examples: int
    """Examples with a known label."""
    num_positives: int
    normalized_entropy: float | None = None
    """None: the windows do not define it. The same holds for the figures below."""
    calibration: float | None = None
    champion_entropy: float | None = None
    """The champion's on the same examples; None without a champion, or where it lacks the task."""
    champion_calibration: float | None = None
    ne_increase: Interval | None = None
    """Increase of normalized entropy over the champion's, as a share of it, with its 95 % interval."""
    excess_loss: float | None = None
    """Mean log loss, in nats, over that of answering the base rate of the windows before; below 0 is better."""
    excess_loss_error: float | None = None
    """Standard error of `excess_loss`, in nats."""


class Judgement(Config):
    """A candidate's figures and the champion's."""

    name: str
    champion: int = 0
    """Version that it was compared with; 0: there was none."""
    num_new_windows: int
    """Windows that the candidate learned and the champion had not; 0: there is nothing to judge."""
    windows: tuple[int, ...] = ()
    """Judged windows, by index: the new ones, and older ones if the new ones have too few positives."""
    first_window: str = ""
    """Start of the first of them, as people write it; empty: there is none."""
    last_window: str = ""
    """Start of the last of them, likewise."""
    tasks: tuple[TaskFigures, ...] = ()
    missing_tasks: tuple[str, ...] = ()
    """Tasks of the champion that the candidate lacks."""

    @property
    def has_intervals(self) -> bool:
        """Return whether each NE that has a champion's beside it has an interval; earlier releases made none."""
        return all(task.ne_increase or not task.champion_entropy for task in self.tasks)

    @property
    def has_news(self) -> bool:
        """Return whether there is something to judge; for a first version there always is."""
        return not self.champion or self.num_new_windows > 0

    @property
    def span(self) -> str:
        """Return the judged windows as part of a line; there is at least one."""
        if len(self.windows) == 1:
            return f"the window of {self.first_window}"
        return f"{len(self.windows)} windows, {self.first_window} to {self.last_window}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold, without figures that are None: a pipeline's parameters have no null."""
        return self.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class Check:
    """One figure against its bound."""

    task: str
    figure: str
    value: float | None
    """None: the windows do not define it, and the check fails."""
    bound: float
    interval: Interval | None = None
    """Of the value. If there is one, its lower end is held against the bound."""

    @property
    def margin(self) -> float | None:
        """Return how far the value, or its interval's lower end, is below the bound; negative: it is above."""
        held = self.interval.low if self.interval else self.value
        return None if held is None else self.bound - held

    @property
    def passed(self) -> bool:
        """Return whether the margin is not negative."""
        return self.margin is not None and self.margin >= 0

    @property
    def found(self) -> str:
        """Return the value, and the interval if there is one."""
        ends = f" [{number(self.interval.low)}, {number(self.interval.high)}]" if self.interval else ""
        return f"{number(self.value)}{ends}"

    @property
    def row(self) -> tuple[str, ...]:
        """Return it as a row of a table, with the columns of HEADS."""
        sign = "✓" if self.passed else "✗"
        return self.task, self.figure, self.found, number(self.bound), number(self.margin), sign

    def __str__(self) -> str:
        """Return it as part of a line."""
        return f"{self.task}: {self.figure} {self.found}, bound {number(self.bound)}"


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate passes, and every figure with its bound."""

    judgement: Judgement
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What else there is to know about the figures."""

    @property
    def outcome(self) -> Outcome:
        """Return the outcome."""
        if not self.judgement.has_news:
            return "nothing new"
        failed = not self.checks or self.judgement.missing_tasks or not all(check.passed for check in self.checks)
        return "refused" if failed else "passed"

    def __str__(self) -> str:
        """Return one line: the failed checks, or else all figures."""
        against = f" against v{self.judgement.champion}" if self.judgement.champion else ""
        if self.judgement.has_news and not self.judgement.windows:
            return "refused: no window after the warm-up was learned; lower warmup_windows, or take a longer log"
        if self.outcome == "nothing new":
            return f"nothing new{against}: no window was learned after the champion's"
        reasons = [str(check) for check in self.checks if self.outcome == "passed" or not check.passed]
        reasons += [
            f"{task}: the champion has this task, the candidate lacks it" for task in self.judgement.missing_tasks
        ]
        return f"{self.outcome}{against}, {self.judgement.span}: {'; '.join([*reasons, *self.notes])}"

    def rows(self) -> list[tuple[str, ...]]:
        """Return a table's rows, with the columns of HEADS."""
        missing = [(task, "task of the champion", "missing", "there", "", "✗") for task in self.judgement.missing_tasks]
        return [*(check.row for check in self.checks), *missing]


HEADS = ("task", "figure", "value", "bound", "margin", "")
"""Headings of the columns of `Verdict.rows`."""


def verdict(judgement: Judgement, rule: PromotionRule) -> Verdict:
    """Return a judgement's figures with a rule's bounds; without a champion, only the absolute bounds apply.

    Absolute are calibration, and a loss that is not significantly worse than the base rate's.
    """
    return Verdict(judgement, tuple(check for task in judgement.tasks for check in _checks(task, rule)))


def _checks(found: TaskFigures, rule: PromotionRule) -> Iterator[Check]:
    if found.champion_entropy is not None:
        increase = found.ne_increase
        value = increase.value if increase else None
        yield Check(found.task, "NE increase beyond chance", value, rule.max_ne_increase, interval=increase)
        yield Check(found.task, "estimated NE increase", value, rule.max_estimated_ne_increase)
    error, before = _error(found.calibration), _error(found.champion_calibration)
    yield Check(found.task, "calibration error", error, max(rule.max_calibration_error, before or 0.0))
    bound = SIGNIFICANT * (found.excess_loss_error or 0.0)
    yield Check(found.task, "loss over the base rate's", found.excess_loss, bound)


def _error(calibration: float | None) -> float | None:
    return None if calibration is None else abs(calibration - 1)


def number(value: float | None) -> str:
    """Return a figure as people read it; None: it is not defined."""
    return "–" if value is None else f"{value:.4f}"  # noqa: RUF001
