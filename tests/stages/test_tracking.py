"""A comparison of methods as a run of MLflow."""

from pathlib import Path

import pytest

from exfm.artifact.storage import Ref
from exfm.errors import StorageError
from exfm.evaluation.comparison import Comparison, MethodQuality, TaskComparison, TeacherComparison, VerticalComparison
from exfm.evaluation.config import ComparisonConfig, Setting
from exfm.metrics.intervals import Interval
from exfm.registry.mlflow_registry import EXPERIMENT, Registry
from exfm.registry.pipeline_run import MAX_PARAMS
from exfm.registry.runs import log_comparison
from exfm.report.distillation.tracking import metrics_of, params_of
from exfm.tables.reference import TableRef

pytestmark = pytest.mark.slow


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 1, high=value + 1)


LABEL = MethodQuality(normalized_entropy=interval(0.9), auc=None, calibration=None)
HEADS = MethodQuality(
    normalized_entropy=interval(0.8), auc=interval(0.7), calibration=interval(1.1), delta_ne=interval(-0.1)
)


def found(*, num_verticals: int) -> Comparison:
    """Return a comparison whose vertical models are all alike."""
    settings = {"label": Setting(weight=0, learning_rate=0.001), "ah+sa": Setting(weight=3, learning_rate=0.001)}
    taught = TeacherComparison(pseudo_labels=None, methods={"label": LABEL, "ah+sa": HEADS})
    task = TaskComparison(num_examples=9, base_rate=0.5, teachers={"fm": taught})
    return Comparison(
        name="ads",
        examples=TableRef(table="s3://bucket/tables/examples", version=7),
        foundation_models={"fm": Ref(uri="s3://bucket/models/fm", digest="7" * 64)},
        num_foundation_parameters=1,
        sized=(),
        config=ComparisonConfig(methods=("label", "ah+sa"), learning_rates=()),
        user="",
        verticals=tuple(
            VerticalComparison(
                name=f"vm-{place}",
                windows=(8,),
                first_window="0",
                last_window="0",
                settings={"fm": settings},
                tasks={"click": task},
            )
            for place in range(num_verticals)
        ),
    )


def test_a_comparison_is_one_run_with_settings_figures_and_files(tmp_path: Path) -> None:
    comparison, files = found(num_verticals=40), [tmp_path / "comparison.json", tmp_path / "comparison.html"]
    for file in files:
        file.write_text(f"{file.name}: ä", encoding="utf-8")
    registry = Registry.at(str(tmp_path), create=True)
    params, metrics = params_of(comparison), metrics_of(comparison)
    log_comparison(registry, "ads comparison", params=params, metrics=metrics, files=[str(file) for file in files])
    experiment = registry.client.get_experiment_by_name(EXPERIMENT)
    [run] = registry.client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("ads comparison", "FINISHED")
    assert len(run.data.params) > MAX_PARAMS
    assert run.data.params["methods"] == "['label', 'ah+sa']"
    assert run.data.params["examples.version"] == "7"
    assert run.data.params["foundation_models.fm"] == "7" * 64
    assert run.data.params["chosen.vm-39.fm.ah_sa.weight"] == "3.0"
    assert {name: value for name, value in run.data.metrics.items() if name.startswith("vm-39/")} == pytest.approx(
        {
            "vm-39/click/fm/label/normalized_entropy": 0.9,
            "vm-39/click/fm/label/normalized_entropy_low": -0.1,
            "vm-39/click/fm/label/normalized_entropy_high": 1.9,
            "vm-39/click/fm/ah_sa/normalized_entropy": 0.8,
            "vm-39/click/fm/ah_sa/normalized_entropy_low": -0.2,
            "vm-39/click/fm/ah_sa/normalized_entropy_high": 1.8,
            "vm-39/click/fm/ah_sa/delta_ne": -0.1,
            "vm-39/click/fm/ah_sa/delta_ne_low": -1.1,
            "vm-39/click/fm/ah_sa/delta_ne_high": 0.9,
            "vm-39/click/fm/ah_sa/calibration": 1.1,
            "vm-39/click/fm/ah_sa/calibration_low": 0.1,
            "vm-39/click/fm/ah_sa/calibration_high": 2.1,
        }
    )
    kept = registry.client.download_artifacts(run.info.run_id, "comparison.html")
    assert Path(kept).read_text(encoding="utf-8") == "comparison.html: ä"


def test_a_file_that_is_not_there_is_named_and_the_run_has_failed(tmp_path: Path) -> None:
    registry = Registry.at(str(tmp_path), create=True)
    with pytest.raises(StorageError, match=r"nowhere\.json"):
        log_comparison(registry, "ads", params={}, metrics={}, files=[str(tmp_path / "nowhere.json")])
    [run] = registry.client.search_runs([registry.experiment()])
    assert run.info.status == "FAILED"
