"""A comparison as what experiment tracking keeps: settings and figures by name."""

from collections.abc import Mapping
from typing import Any

from exfm.evaluation.comparison import Comparison


def params_of(comparison: Comparison) -> Mapping[str, Any]:
    """Return the settings, those that were chosen by vertical model, teacher and method, and what it is made of."""
    return {
        **comparison.config.to_dict(),
        "user": comparison.user,
        "examples": comparison.examples.to_dict(),
        "foundation_models": {name: ref.digest for name, ref in comparison.foundation_models.items()},
        "chosen": {
            vertical.name: {
                _named(teacher): {_named(method): setting.to_dict() for method, setting in by_method.items()}
                for teacher, by_method in vertical.settings.items()
            }
            for vertical in comparison.verticals
        },
    }


def metrics_of(comparison: Comparison) -> dict[str, float]:
    """Return each figure and its interval, by `<vertical model>/<task>/<teacher>/<method>/<figure>`."""
    return {
        f"{vertical.name}/{task}/{_named(teacher)}/{_named(method)}/{figure}": value
        for vertical in comparison.verticals
        for task, compared in vertical.tasks.items()
        for teacher, taught in compared.teachers.items()
        for method, quality in taught.methods.items()
        for name in ("normalized_entropy", "delta_ne", "calibration")
        if (interval := getattr(quality, name))
        for figure, value in (
            (name, interval.value), (f"{name}_low", interval.low), (f"{name}_high", interval.high)
        )
    }  # fmt: skip


def _named(name: str) -> str:
    """Return the name of a method or of several teachers without `+`, which MLflow's names may not have."""
    return name.replace("+", "_")
