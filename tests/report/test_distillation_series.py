"""What a comparison's plots show: teachers that differ in one thing, in the order of it."""

from exfm.evaluation.comparison import Comparison, LargerQuality, TaskComparison, VerticalComparison
from exfm.evaluation.config import ComparisonConfig, TeacherVariant
from exfm.metrics.intervals import Interval
from exfm.report.distillation.figures import change
from exfm.report.distillation.page import render_page
from exfm.report.distillation.series import told_changes, varied, verdict
from exfm.tables.reference import TableRef

CONFIG = ComparisonConfig(
    teachers=(
        TeacherVariant(name="older", age=4),
        TeacherVariant(name="old", age=1),
        TeacherVariant(name="old-and-noisy", age=2, noise=1.5),
        TeacherVariant(name="small-and-double", size=0.25, factor=2),
    )
)
EXAMPLES = TableRef(table="s3://bucket/tables/examples", version=0)
UNKNOWN = TaskComparison(num_examples=0, base_rate=None, teachers={})
VERTICAL = VerticalComparison(
    name="ads", windows=(9,), first_window="0", last_window="0", settings={"fm": {}}, tasks={"click": UNKNOWN}
)


def test_a_series_has_the_teachers_that_differ_in_nothing_else() -> None:
    assert varied(VERTICAL, CONFIG, "age") == {0: "fm", 1: "old", 4: "older"}
    assert list(varied(VERTICAL, CONFIG, "age")) == [0, 1, 4]
    assert varied(VERTICAL, CONFIG, "size") == {}


def test_what_a_variant_changes_is_told() -> None:
    assert [told_changes(variant) for variant in CONFIG.teachers] == [
        "4 windows older",
        "1 window older",
        "2 windows older, noise of 1.5 on logits",
        "size times 0.25, pseudo-labels times 2",
    ]


def test_a_page_without_variants_has_no_plot_of_them() -> None:
    plain = ComparisonConfig()
    comparison = Comparison(
        name="run", examples=EXAMPLES, foundation_models={}, num_foundation_parameters=7, config=plain, user="",
        sized=(), verticals=(VERTICAL,),
    )  # fmt: skip
    page = render_page(comparison)
    assert "age of snapshots" not in page
    assert "Size of the foundation model" not in page


def test_a_change_in_the_thousands_has_no_decimals() -> None:
    assert change(Interval(value=10.1167, low=-0.5, high=12), unit=0.01) == "+1012 [−50.00, +1200]"  # noqa: RUF001


def test_a_verdict_counts_what_is_certain_and_names_the_number_that_pays() -> None:
    figures = {"normalized_entropy": None, "auc": None, "calibration": None}
    tasks = {
        name: UNKNOWN.model_copy(
            update={
                "larger": {4: LargerQuality(**figures, delta_ne_of_auto=Interval(value=middle, low=low, high=high))}
            }
        )
        for name, (middle, low, high) in {
            "worse": (0.02, 0.01, 0.03),
            "better": (-0.02, -0.03, -0.01),
            "alike": (0, -0.1, 0.1),
            "worse too": (0.2, 0.1, 0.3),
        }.items()
    }
    comparison = Comparison(
        name="run", examples=EXAMPLES, foundation_models={}, num_foundation_parameters=7,
        config=ComparisonConfig(label_only_sizes=(4,)), user="", sized=(),
        verticals=(VERTICAL.model_copy(update={"tasks": tasks}),),
    )  # fmt: skip
    assert verdict(comparison, 4, 8) == (
        "A label-only model of 4 times the size is worse than auto in 2 of 4 cases, better in 1, and in 1 the interval "
        "has 0 in it. Sharing a foundation model costs no more than it from 8 vertical models on."
    )
    assert verdict(comparison, 4, None).endswith(
        "It costs less than sharing a foundation model, however many vertical models do."
    )
