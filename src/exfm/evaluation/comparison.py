"""What a comparison found: every method of every vertical model, each figure with its interval."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from exfm.artifact.storage import Ref
from exfm.config import Config
from exfm.evaluation.config import KD, LABEL, ComparisonConfig, Method, Setting
from exfm.evaluation.intervals import Figures, Interval, Labelled, Sampled, bootstrap
from exfm.metrics import Floats

FOUNDATION = "foundation"
"""Beside the methods: the foundation model's own predictions."""


class MethodQuality(Config):
    """The quality of one method's predictions of one task, mean over seeds; None where it is not defined."""

    normalized_entropy: Interval | None
    auc: Interval | None
    calibration: Interval | None
    """Sum of predictions over number of positives; 1 is right."""
    delta_ne: Interval | None = None
    """Normalized entropy less that of `label`; less than 0 is better. None of `label` itself."""
    delta_auc: Interval | None = None
    """AUC less that of `label`; more than 0 is better. None of `label` itself."""
    delta_ne_of_kd: Interval | None = None
    """Normalized entropy less that of `kd`; less than 0 is better. None of `kd` itself, or without it."""
    transfer_ratio: Interval | None = None
    """Share of the foundation model's lead over `label` that the method reaches. None where the interval of that lead
    has 0 in it."""


class TaskComparison(Config):
    """One task of one vertical model; every figure is of the same examples."""

    num_examples: int
    """With a known label."""
    base_rate: float | None
    """Weighted share of positives; None of no example."""
    foundation: MethodQuality | None
    """Of the foundation model; None where no label is known."""
    methods: dict[Method, MethodQuality]
    """Empty where no label is known."""


class VerticalComparison(Config):
    """One vertical model."""

    name: str
    windows: tuple[int, ...]
    """Indices of those that the figures are of."""
    settings: dict[Method, Setting]
    """As chosen by the windows before."""
    tasks: dict[str, TaskComparison]

    def at_edge(self, config: ComparisonConfig) -> dict[Method, tuple[str, ...]]:
        """Return which settings of which methods are the least or the greatest that were tried, of two or more."""

        def is_edge(value: float, tried: Sequence[float]) -> bool:
            return len(tried) > 1 and value in (min(tried), max(tried))

        edges: dict[Method, tuple[str, ...]] = {}
        for method, setting in self.settings.items():
            found = []
            if method != LABEL and is_edge(setting.weight, config.weights):
                found.append(f"weight {setting.weight:g}")
            if is_edge(setting.learning_rate, config.learning_rates):
                found.append(f"learning rate {setting.learning_rate:g}")
            if found:
                edges[method] = tuple(found)
        return edges


class Comparison(Config):
    """All vertical models of a run; the content of comparison.json."""

    format_version: Literal[1] = 1
    name: str
    """The run's."""
    foundation_model: str
    config: ComparisonConfig
    user: str
    """Column by which the samples are drawn; empty: by impression."""
    inputs: dict[str, Ref]
    """The examples, and the foundation model."""
    verticals: tuple[VerticalComparison, ...]

    def headline(self) -> str:
        """Return one line about what was found: how many of the differences from `label` are certain."""
        found = [
            quality.delta_ne
            for vertical in self.verticals
            for task in vertical.tasks.values()
            for quality in task.methods.values()
            if quality.delta_ne
        ]
        better, worse = (sum(sign * delta.value > 0 and delta.excludes_zero for delta in found) for sign in (-1, 1))
        return (
            f"{len(self.config.methods)} methods on {len(self.verticals)} vertical models: normalized entropy is below "
            f"label's in {better} of {len(found)} cases, and above it in {worse}; 95 % intervals"
        )


def compare_task(
    examples: Labelled, scores: Mapping[str, Floats], foundation_N: Floats,
    *, config: ComparisonConfig,
) -> TaskComparison:  # fmt: skip
    """Return the comparison of methods' scores, [S, N], and of the foundation model's, on examples with known labels.

    The intervals of a difference are of paired samples.
    """
    num_examples = len(examples.labels_N)
    if not num_examples:
        return TaskComparison(num_examples=0, base_rate=None, foundation=None, methods={})
    figures = bootstrap(
        examples,
        {**scores, FOUNDATION: foundation_N[None]},
        num_samples=config.num_bootstrap_samples,
        seed=config.bootstrap_seed,
    )
    label, foundation = figures[LABEL], figures.pop(FOUNDATION)
    lead = label.normalized_entropy.minus(foundation.normalized_entropy)
    lead_interval = lead.interval()
    of_lead = lead if lead_interval and lead_interval.excludes_zero else None
    return TaskComparison(
        num_examples=num_examples,
        base_rate=float(np.average(examples.labels_N, weights=examples.weights_N)),
        foundation=_quality(foundation, label, kd=figures.get(KD)),
        methods={
            method: _quality(
                figures[method],
                label if method != LABEL else None,
                kd=figures.get(KD) if method != KD else None,
                lead=of_lead if method != LABEL else None,
            )
            for method in config.methods
        },
    )


def _quality(
    figures: Figures, label: Figures | None, *, kd: Figures | None, lead: Sampled | None = None
) -> MethodQuality:
    delta_ne = figures.normalized_entropy.minus(label.normalized_entropy) if label else None
    return MethodQuality(
        normalized_entropy=figures.normalized_entropy.interval(),
        auc=figures.auc.interval(),
        calibration=figures.calibration.interval(),
        delta_ne=delta_ne.interval() if delta_ne else None,
        delta_auc=figures.auc.minus(label.auc).interval() if label else None,
        delta_ne_of_kd=figures.normalized_entropy.minus(kd.normalized_entropy).interval() if kd else None,
        transfer_ratio=delta_ne.times(-1).over(lead).interval() if delta_ne and lead else None,
    )
