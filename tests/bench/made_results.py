"""Results with figures that a test makes up, in the form that measured ones have."""

from collections.abc import Mapping

from exfm.artifact.storage import Ref
from exfm.evaluation.comparison import (
    ColdStart,
    Comparison,
    LargerLabelOnly,
    LargerQuality,
    MethodQuality,
    ModelCost,
    SizedFoundationModel,
    TaskComparison,
    TeacherComparison,
    VerticalComparison,
)
from exfm.evaluation.config import ComparisonConfig, Setting, TeacherVariant
from exfm.metrics.intervals import Interval
from exfm.metrics.quality import Quality
from exfm.tables.reference import TableRef
from exfm.training.manifest import BASE_RATE, LOGISTIC, Excess
from exfm_bench.results.conditions import Conditions
from exfm_bench.results.found import Found, PartFound, WorldFound
from exfm_bench.results.lines import ModelLines, TaskLines
from exfm_bench.results.served import Served

LABEL_NE = 0.8
"""Normalized entropy of label-only models."""

METHODS = ("label", "kd", "ah", "ah+sa", "auto")

Changes = Mapping[tuple[str, str], float]
"""Change of normalized entropy by teacher (`fm` is the run's own) and method; others are 0."""


def about(value: float) -> Interval:
    return Interval(value=value, low=value - 0.001, high=value + 0.001)


def quality(change: float, of_kd: float, *, calibration: float = 1.0) -> MethodQuality:
    return MethodQuality(
        normalized_entropy=about(LABEL_NE + change),
        auc=about(0.7),
        calibration=about(calibration),
        delta_ne=about(change),
        delta_auc=about(-change),
        delta_ne_of_kd=about(of_kd),
        transfer_ratio=None,
    )


def task_of(changes: Changes, teachers: tuple[str, ...], calibrations: Changes) -> TaskComparison:
    label = MethodQuality(normalized_entropy=about(LABEL_NE), auc=about(0.7), calibration=about(1))
    compared = {}
    for teacher in teachers:
        of_kd = changes.get((teacher, "kd"), 0.0)
        methods = {
            method: quality(
                change := changes.get((teacher, method), 0.0),
                change - of_kd,
                calibration=calibrations.get((teacher, method), 1.0),
            )
            for method in METHODS[1:]
        }
        compared[teacher] = TeacherComparison(
            pseudo_labels=quality(-0.04, 0), methods=({"label": label} if teacher == "fm" else {}) | methods
        )
    return TaskComparison(num_examples=500, base_rate=0.2, teachers=compared)


def comparison_of(
    *variants: TeacherVariant, changes: Changes, calibrations: Changes | None = None, sizes: tuple[int, ...] = ()
) -> Comparison:
    teachers = ("fm", *(variant.name for variant in variants))
    task = task_of(changes, teachers, calibrations or {})
    cost = ModelCost(num_parameters=10, training_cpu_s=5, scoring_cpu_s=1)
    larger = {size: LargerQuality(**dict(quality(-0.01, 0)), delta_ne_of_auto=about(0.02)) for size in sizes}
    setting = Setting(weight=1, learning_rate=0.001)
    cold = TaskComparison(**dict(task) | {"teachers": {"fm": task.teachers["fm"]}})
    vertical = VerticalComparison(
        name="search",
        windows=(3, 4),
        first_window="1970-01-04 00:00 UTC",
        last_window="1970-01-05 00:00 UTC",
        settings={teacher: dict.fromkeys(METHODS, setting) for teacher in teachers},
        costs=dict.fromkeys(METHODS, cost),
        larger={size: LargerLabelOnly(setting=setting, cost=cost) for size in sizes},
        tasks={
            "click": task.model_copy(
                update={"larger": larger, "cold_start": {"user_id": ColdStart(new=cold, known=cold)}}
            )
        },
    )
    return Comparison(
        name="made",
        examples=TableRef(table="x", version=0),
        foundation_models={"fm": Ref(uri="x", digest=64 * "0")},
        num_foundation_parameters=100,
        config=ComparisonConfig(methods=METHODS, teachers=variants, label_only_sizes=sizes, num_seeds=1),
        user="user_id",
        sized=tuple(
            SizedFoundationModel(size=size, cost=cost) for size in sorted({1.0, *(v.size for v in variants if v.size)})
        ),
        verticals=(vertical,),
    )


def lines_of(over: float) -> list[ModelLines]:
    excess = Excess(entropy=over, low=over - 0.001, high=over + 0.001)
    task = TaskLines(
        quality=Quality(num_examples=500, base_rate=0.2, normalized_entropy=0.8),
        over={BASE_RATE: excess, LOGISTIC: excess},
    )
    return [
        ModelLines(name=name, method=method, num_parameters=10, tasks={"click": task})
        for name, method in (("fm", ""), ("search", "label"), ("search", "auto"))
    ]


def found_of(*, changes: Changes, defaults: Changes, calibrations: Changes | None = None, over: float = -0.05) -> Found:
    """Return results in which these changes are those of all data; worlds differ by a little from each other."""
    conditions = Conditions(machine="a machine", date="2026-11-30", num_examples=1000, num_windows=5, cpu_s={"join": 2})
    stale, doubled = TeacherVariant(name="2-old", age=2), TeacherVariant(name="doubled", factor=2)
    small, large = TeacherVariant(name="quarter", size=0.25), TeacherVariant(name="times-4", size=4)
    shuffled = TeacherVariant(name="shuffled", shuffled=True)
    lines = lines_of(over)
    part = PartFound(conditions, lines, comparison_of(stale, doubled, small, large, changes=changes, sizes=(4,)))

    def world(place: int) -> WorldFound:
        moved, moved_defaults = (
            {key: change + 0.0001 * place * (change != 0) for key, change in of.items()} for of in (changes, defaults)
        )
        return WorldFound(
            conditions,
            lines,
            comparison_of(stale, doubled, changes=moved),
            comparison_of(doubled, shuffled, changes=moved_defaults, calibrations=calibrations),
        )

    served = [
        Served(name="fm", table_bytes=4000, dense_bytes=400, score_ms=8),
        Served(name="search", table_bytes=1000, dense_bytes=100, score_ms=2),
    ]
    return Found(part, part, part, [world(place) for place in (-1, 0, 1)], served)
