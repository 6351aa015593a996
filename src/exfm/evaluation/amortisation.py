"""What a foundation model costs each vertical model that it teaches, and what they would cost without it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import fmean

from exfm.evaluation.comparison import Comparison, ModelCost
from exfm.evaluation.config import AUTO, LABEL


@dataclass(frozen=True)
class Amortisation:
    """CPU-seconds of training and scoring over the whole log; those of vertical models are means over all compared."""

    foundation_cpu_s: float
    """CPU-seconds of the foundation model, once for all vertical models."""
    distilled_cpu_s: float
    """CPU-seconds of a vertical model that learns by `auto`."""
    label_only_cpu_s: Mapping[int, float]
    """CPU-seconds of a label-only model, by size; size 1 is the vertical model's own."""

    def shared_cpu_s(self, num_verticals: int) -> float:
        """Return what each of so many vertical models costs that share the foundation model."""
        return self.foundation_cpu_s / num_verticals + self.distilled_cpu_s

    def pays_from(self, size: int) -> int | None:
        """Return the least number of vertical models at which sharing costs no more than label-only ones of a size.

        None: it costs more at any number.
        """
        saved_s = self.label_only_cpu_s[size] - self.distilled_cpu_s
        return max(ceil(self.foundation_cpu_s / saved_s), 1) if saved_s > 0 else None


def amortisation(comparison: Comparison) -> Amortisation | None:
    """Return what a comparison measured of cost; None if it was not asked to."""
    sizes = comparison.config.label_only_sizes
    of_the_run = [sized.cost for sized in comparison.sized if sized.size == 1]
    if not sizes or not of_the_run:
        return None

    verticals = comparison.verticals
    return Amortisation(
        foundation_cpu_s=of_the_run[0].cpu_s(),
        distilled_cpu_s=_mean(vertical.costs[AUTO] for vertical in verticals),
        label_only_cpu_s={1: _mean(vertical.costs[LABEL] for vertical in verticals)}
        | {size: _mean(vertical.larger[size].cost for vertical in verticals) for size in sizes},
    )


def _mean(costs: Iterable[ModelCost]) -> float:
    return fmean(cost.cpu_s() for cost in costs)
