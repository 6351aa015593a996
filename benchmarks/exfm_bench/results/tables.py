"""The page's tables."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from exfm.evaluation.comparison import Comparison, MethodQuality, TaskComparison
from exfm.evaluation.config import AUTO, KD, LABEL, Method
from exfm.metrics.intervals import Interval
from exfm.planning.sizes import bytes_text
from exfm.report.distillation.figures import DASH, MINUS, change, method_name, share
from exfm.report.distillation.series import num_parameters, taught, varied
from exfm_bench.results.claims import AH, AH_SA, DOUBLED, STALE, claims, interval_of, teachers_of
from exfm_bench.results.found import MOVIELENS, Found
from exfm_bench.results.lines import REFERENCES, ModelLines, TaskLines
from exfm_bench.results.over_worlds import (
    Figure,
    calibration,
    delta_auc,
    delta_ne,
    delta_ne_of_kd,
    mean_of,
    of_worlds,
    relative_delta_ne,
    transfer_ratio,
    world_mean,
)
from exfm_bench.results.pictures import ages_of
from exfm_bench.table import Table

WORLDS = "mean of worlds"

FIGURES: tuple[Figure, ...] = (delta_ne, delta_auc, calibration, transfer_ratio)

BIASED: tuple[Method, ...] = (KD, AH, AH_SA)
"""Methods that are told apart with a stale and a doubled teacher."""


def of_claims(found: Found) -> Table:
    """Return every claim with its verdict."""
    return Table(("claim", "measured"), [(claim.sentence, claim.verdict()) for claim in claims(found)], num_words=2)


def of_conditions(found: Found) -> Table:
    """Return what each part was made of; the worlds, which are alike, are one row."""
    parts = dict(found.parts()) | {f"{len(found.worlds)} worlds, each": found.worlds[0]}
    cpu_s = [sum(part.conditions.cpu_s.values()) for part in found.parts().values()]
    cpu_s.append(fmean(sum(world.conditions.cpu_s.values()) for world in found.worlds))
    rows = [
        (
            name,
            f"{part.conditions.num_examples:,}",
            str(part.conditions.num_windows),
            str(len(part.comparison.verticals[0].windows)),
            str(len(part.comparison.verticals)),
            str(part.comparison.config.num_seeds),
            f"{spent_s:,.0f}",
        )
        for (name, part), spent_s in zip(parts.items(), cpu_s, strict=True)
    ]
    return Table(("data", "examples", "windows", "that count", "vertical models", "seeds", "CPU s"), rows)


def of_lines(found: Found) -> Table:
    """Return every model's entropy beside the reference lines."""
    rows = []
    for name, part in found.parts().items():
        for model, task, lines in _tasks(part.lines):
            over = (_marked(interval_of(lines.over.get(line))) for line in REFERENCES)
            rows.append((name, model, task, _ne(lines.quality.normalized_entropy), *over))
    of_world = [{(model, task): lines for model, task, lines in _tasks(world.lines)} for world in found.worlds]
    for model, task in of_world[0]:
        of_model = [lines[model, task] for lines in of_world]
        entropies = [lines.quality.normalized_entropy for lines in of_model if lines.quality.normalized_entropy]
        over = (
            _marked(mean_of([lines.over[line].entropy for lines in of_model if line in lines.over]))
            for line in REFERENCES
        )
        rows.append((WORLDS, model, task, _ne(fmean(entropies) if entropies else None), *over))
    heads = ("data", "model", "task", "NE", "less base rate's", "less logistic regression's")
    return Table(heads, rows, num_words=3)


def _tasks(models: Sequence[ModelLines]) -> Iterator[tuple[str, str, TaskLines]]:
    for model in models:
        method = f", {method_name(model.method)}" if model.method else ", foundation model"
        for task, lines in model.tasks.items():
            yield f"{model.name}{method}", task, lines


def of_methods(found: Found) -> Table:
    """Return each method's change of entropy for every vertical model and task."""
    methods = [method for method in found.tuned[0].config.methods if method != LABEL]
    rows = []
    for name, part in found.parts().items():
        for vertical in part.comparison.verticals:
            for task, compared in vertical.tasks.items():
                rows.append((name, f"{vertical.name}, {task}", *_of_task(compared, methods)))
    means = (_marked(world_mean(found.tuned, "", method, delta_ne)) for method in methods)
    label = _value(world_mean(found.tuned, "", LABEL, _entropy))
    rows.append((WORLDS, "", label, _marked(_teachers_lead(found.tuned)), *means))
    heads = ("data", "vertical model, task", "label-only NE", "teacher", *map(method_name, methods))
    return Table(heads, rows, num_words=2)


def _of_task(compared: TaskComparison, methods: Sequence[Method]) -> Iterator[str]:
    """Yield label-only's entropy, then the changes of teacher and methods."""
    own = compared.own()
    yield _value(own.methods[LABEL].normalized_entropy) if own.methods else DASH
    yield _marked(own.pseudo_labels.delta_ne if own.pseudo_labels else None)
    for method in methods:
        yield _marked(own.methods[method].delta_ne) if method in own.methods else DASH


def of_means(found: Found) -> Table:
    """Return each method's figures, means over vertical models and tasks, and how many changes are certain."""
    rows = []
    for name, part in found.parts().items():
        for method in part.comparison.config.methods:
            ne, auc, right, ratio = (_mean(part.comparison, "", method, figure) for figure in FIGURES)
            changed = [quality.delta_ne for _, _, one, quality in part.comparison.gains() if one == method]
            certain = [interval.value < 0 for interval in changed if interval and interval.excludes_zero]
            told = f"{sum(certain)}, {len(certain) - sum(certain)} of {len(changed)}" if changed else ""
            plain = (_plain(value, unit=1, sign="") for value in (right, ratio))
            rows.append((name, method_name(method), _plain(ne), _plain(auc), *plain, told))
    for method in found.tuned[0].config.methods:
        means = [world_mean(found.tuned, "", method, figure) for figure in FIGURES]
        below = [value < 0 for value in of_worlds(found.tuned, "", method, delta_ne)]
        told = f"{sum(below)} of {len(below)} worlds below" if below else ""
        changed_by = (change(mean, unit=0.01) for mean in means[:2])
        rows.append((WORLDS, method_name(method), *changed_by, *map(share, means[2:]), told))
    heads = ("data", "method", "NE change", "AUC change", "calibration", "transfer ratio", "NE certainly better, worse")
    return Table(heads, rows, num_words=2)


def of_ages(found: Found) -> Table:
    """Return each method's change of entropy by the age of snapshots, mean of worlds."""
    methods = taught(found.tuned[0].config)
    rows = [
        (
            str(age),
            _marked(_teachers_lead(found.tuned, teacher)),
            *(_marked(world_mean(found.tuned, teacher, method, delta_ne)) for method in methods),
        )
        for age, teacher in ages_of(found).items()
    ]
    return Table(("windows older", "teacher", *methods), rows)


def of_bias(found: Found) -> Table:
    """Return what heads and adapters change with a stale and a doubled teacher."""
    rows = []
    for teacher in (STALE, DOUBLED):
        words = teachers_of(found.tuned[0])[teacher]
        for vertical in found.movielens.comparison.verticals:
            for task, compared in vertical.tasks.items():
                methods = compared.teachers[teacher].methods
                changed = (_marked(methods[method].delta_ne) for method in BIASED)
                right = (share(methods[method].calibration) for method in (KD, AH))
                data = f"{MOVIELENS}: {vertical.name}, {task}"
                rows.append((words, data, *changed, _marked(methods[AH_SA].delta_ne_of_kd), *right))
        for name, worlds in (("tuned", found.tuned), ("defaults", found.defaults)):
            if teacher in teachers_of(worlds[0]):
                changed = (_marked(world_mean(worlds, teacher, method, delta_ne)) for method in BIASED)
                right = (share(world_mean(worlds, teacher, method, calibration)) for method in (KD, AH))
                of_kd = _marked(world_mean(worlds, teacher, AH_SA, delta_ne_of_kd))
                rows.append((words, f"{WORLDS}, {name}", *changed, of_kd, *right))
    heads = ("teacher", "data", *BIASED, f"{AH_SA} less {KD}", f"calibration of {KD}", f"of {AH}")
    return Table(heads, rows, num_words=2)


def of_hurt(found: Found) -> Table:
    """Return what `auto` changes by default with every teacher, in percent of label-only's entropy."""
    rows = []
    for teacher, words in teachers_of(found.defaults[0]).items():
        of_each = of_worlds(found.defaults, teacher, AUTO, relative_delta_ne)
        rows.append((words, _marked(mean_of(of_each), digits=3), _plain(max(of_each), digits=3)))
    return Table(("teacher", "change of NE, %", "worst world, %"), rows)


def of_sizes(found: Found) -> Table:
    """Return the foundation model's sizes and the mean change over vertical models and tasks by each method."""
    comparison = found.movielens.comparison
    methods, parameters = taught(comparison.config), num_parameters(comparison)
    cpu_s = {one.size: one.cost.cpu_s() for one in comparison.sized}
    rows = []
    for size, teacher in varied(comparison.verticals[0], comparison.config, "size").items():
        means = (_plain(_mean(comparison, teacher, method, delta_ne)) for method in methods)
        rows.append((f"{size:g}", f"{parameters[size]:,}", f"{cpu_s[size]:.0f}" if size in cpu_s else DASH, *means))
    return Table(("size", "parameters", "CPU s", *methods), rows)


def of_served(found: Found) -> Table:
    """Return bytes and time of the foundation model and of its vertical models."""
    foundation = found.served[0]
    rows = [
        (
            one.name,
            bytes_text(one.table_bytes),
            bytes_text(one.dense_bytes),
            f"{one.score_ms:.2f}",
            f"{foundation.score_ms / one.score_ms:.2f}",
        )
        for one in found.served
    ]
    return Table(("model", "tables", "dense part", "ms", "foundation model's time over it"), rows)


def of_cold(found: Found) -> Table:
    """Return entropies and changes on new and on known ids, of each vertical model's first task."""
    methods: tuple[Method, ...] = (KD, AH, AUTO)
    rows = []
    for vertical in found.movielens.comparison.verticals:
        task, compared = next(iter(vertical.tasks.items()))
        for feature, cold in compared.cold_start.items():
            for words, part in (("new", cold.new), ("known", cold.known)):
                told = (f"{vertical.name}, {task}", f"{words} {feature}", f"{part.num_examples:,}")
                rows.append((*told, *_of_task(part, methods)))
    heads = ("vertical model, task", "ids", "examples", "label-only NE", "teacher", *methods)
    return Table(heads, rows, num_words=2)


def _entropy(quality: MethodQuality, task: TaskComparison) -> float | None:
    return quality.normalized_entropy.value if quality.normalized_entropy else None


def _teachers_lead(comparisons: Sequence[Comparison], teacher: str = "") -> Interval | None:
    """Return the teacher's own change of entropy from label-only, mean of worlds."""
    leads = []
    for comparison in comparisons:
        told = [
            task.teachers[teacher or vertical.own()].pseudo_labels
            for vertical in comparison.verticals
            for task in vertical.tasks.values()
        ]
        values = [quality.delta_ne.value for quality in told if quality and quality.delta_ne]
        if values:
            leads.append(fmean(values))
    return mean_of(leads)


def _marked(interval: Interval | None, *, digits: int = 2) -> str:
    """Return a change in 0.01, bold where its interval excludes 0."""
    text = change(interval, unit=0.01, digits=digits)
    return f"**{text}**" if interval and interval.excludes_zero else text


def _mean(comparison: Comparison, teacher: str, method: Method, figure: Figure) -> float | None:
    """Return one comparison's mean over vertical models and tasks."""
    return next(iter(of_worlds([comparison], teacher, method, figure)), None)


def _plain(value: float | None, *, unit: float = 0.01, sign: str = "+", digits: int = 2) -> str:
    return DASH if value is None else f"{value / unit:{sign}.{digits}f}".replace("-", MINUS)


def _value(interval: Interval | None) -> str:
    return _ne(interval.value if interval else None)


def _ne(value: float | None) -> str:
    return DASH if value is None else f"{value:.4f}"
