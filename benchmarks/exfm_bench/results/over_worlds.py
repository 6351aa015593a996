"""Figures over several worlds: the mean, with Student's 95 % interval over the worlds."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from scipy.stats import ttest_1samp

from exfm.evaluation.comparison import Comparison, MethodQuality, TaskComparison
from exfm.evaluation.config import LABEL, Method
from exfm.metrics.intervals import COVERAGE, Interval

Figure = Callable[[MethodQuality, TaskComparison], float | None]
"""A method's figure in one task, or None where it is not defined."""


def mean_of(values: Sequence[float]) -> Interval | None:
    """Return the mean of one value a world; None of fewer than two worlds."""
    if len(values) < 2:
        return None
    mean = fmean(values)
    if len(set(values)) == 1:
        return Interval(value=mean, low=mean, high=mean)
    interval = ttest_1samp(values, 0).confidence_interval(COVERAGE)
    return Interval(value=mean, low=float(interval.low), high=float(interval.high))


def world_mean(comparisons: Iterable[Comparison], teacher: str, method: Method, figure: Figure) -> Interval | None:
    """Return the mean over worlds of what `of_worlds` returns."""
    return mean_of(of_worlds(comparisons, teacher, method, figure))


def of_worlds(comparisons: Iterable[Comparison], teacher: str, method: Method, figure: Figure) -> list[float]:
    """Return each world's figure of a method with a teacher: its mean over vertical models and tasks.

    An empty `teacher` is the run's own. A world that defines none is left out.
    """
    found = []
    for comparison in comparisons:
        values = [
            value
            for vertical in comparison.verticals
            for task in vertical.tasks.values()
            if method in (methods := task.teachers[teacher or vertical.own()].methods)
            and (value := figure(methods[method], task)) is not None
        ]
        if values:
            found.append(fmean(values))
    return found


def delta_ne(quality: MethodQuality, task: TaskComparison) -> float | None:
    """Return the change of normalized entropy from label-only."""
    return quality.delta_ne.value if quality.delta_ne else None


def relative_delta_ne(quality: MethodQuality, task: TaskComparison) -> float | None:
    """Return the change of normalized entropy from label-only, as a share of label-only's."""
    label = task.own().methods[LABEL].normalized_entropy
    return quality.delta_ne.value / label.value if quality.delta_ne and label else None


def delta_ne_of_kd(quality: MethodQuality, task: TaskComparison) -> float | None:
    """Return the change of normalized entropy from `kd` with the same teacher."""
    return quality.delta_ne_of_kd.value if quality.delta_ne_of_kd else None


def delta_auc(quality: MethodQuality, task: TaskComparison) -> float | None:
    """Return the change of AUC from label-only."""
    return quality.delta_auc.value if quality.delta_auc else None


def calibration(quality: MethodQuality, task: TaskComparison) -> float | None:
    """Return the sum of predictions over the number of positives."""
    return quality.calibration.value if quality.calibration else None


def transfer_ratio(quality: MethodQuality, task: TaskComparison) -> float | None:
    """Return the share of the teacher's lead that the method reaches."""
    return quality.transfer_ratio.value if quality.transfer_ratio else None
