"""Figures of a comparison in the order of what is varied: the size of the foundation model, or its age."""

from collections.abc import Mapping
from typing import Literal

from exfm.evaluation.comparison import ColdStart, Comparison, MethodQuality, VerticalComparison
from exfm.evaluation.config import UNTAUGHT, ComparisonConfig, Method, TeacherVariant
from exfm.metrics.intervals import Interval
from exfm.report.distillation.figures import method_name

OF_THE_RUN = {"age": 0.0, "size": 1.0}
"""What the run's own teacher has of each."""


def taught(config: ComparisonConfig) -> tuple[Method, ...]:
    """Return the methods that every teacher has."""
    return tuple(method for method in config.methods if method not in UNTAUGHT)


def varied(vertical: VerticalComparison, config: ComparisonConfig, key: Literal["age", "size"]) -> dict[float, str]:
    """Return the teachers that differ in nothing else, by age or size, ascending; empty if there is only the run's."""
    variants = {float(getattr(one, key)): one.name for one in config.teachers if one.changed() == (key,)}
    return dict(sorted((variants | {OF_THE_RUN[key]: vertical.own()}).items())) if variants else {}


def changes(
    vertical: VerticalComparison, task: str, method: Method, teachers: Mapping[float, str]
) -> dict[float, Interval]:
    """Return a method's change of NE from label-only with each of these teachers that has one."""
    compared = vertical.tasks[task].teachers
    found = {
        place: compared[teacher].methods[method].delta_ne for place, teacher in teachers.items() if teacher in compared
    }
    return {place: interval for place, interval in found.items() if interval is not None}


def cold_rows(cold: ColdStart) -> list[tuple[str, MethodQuality | None, MethodQuality | None]]:
    """Return the foundation model and every method, each with its quality on new and on known ids; None without any."""
    new, known = cold.new.own(), cold.known.own()
    methods = dict.fromkeys((*new.methods, *known.methods))
    return [
        ("foundation model", new.pseudo_labels, known.pseudo_labels),
        *((method_name(method), new.methods.get(method), known.methods.get(method)) for method in methods),
    ]


def num_parameters(comparison: Comparison) -> dict[float, int]:
    """Return the number of the foundation model's parameters, by its size."""
    return {OF_THE_RUN["size"]: comparison.num_foundation_parameters} | {
        of_size.size: of_size.cost.num_parameters for of_size in comparison.sized
    }


def verdict(comparison: Comparison, size: int, pays_from: int | None) -> str:
    """Return what label-only models of a size reach of the gain of `auto`, and what they cost beside it, as text."""
    found = [
        task.larger[size].delta_ne_of_auto
        for vertical in comparison.verticals
        for task in vertical.tasks.values()
        if size in task.larger
    ]
    certain = [interval for interval in found if interval is not None and interval.excludes_zero]
    worse = sum(interval.value > 0 for interval in certain)
    better, total = len(certain) - worse, len(found)
    alike = total - len(certain)
    gain = f"A label-only model of {size} times the size is worse than auto in {worse} of {total} cases"
    undecided = f", and in {alike} the interval has 0 in it" if alike else ""
    cost = (
        "It costs less than sharing a foundation model, however many vertical models do"
        if pays_from is None
        else f"Sharing a foundation model costs no more than it from {pays_from} "
        f"vertical model{'s' * (pays_from > 1)} on"
    )
    return f"{gain}, better in {better}{undecided}. {cost}."


def told_changes(variant: TeacherVariant) -> str:
    """Return what makes a variant another teacher, as text."""
    texts = {
        "age": f"{variant.age} window{'s' if variant.age > 1 else ''} older",
        "size": f"size times {variant.size:g}",
        "factor": f"pseudo-labels times {variant.factor:g}",
        "noise": f"noise of {variant.noise:g} on logits",
        "shuffled": "pseudo-labels shuffled",
    }
    return ", ".join(texts[key] for key in variant.changed())
