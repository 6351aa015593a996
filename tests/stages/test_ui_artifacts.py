"""What steps leave for Kubeflow's UI."""

from pathlib import Path

import pytest
from kfp import dsl
from stream import Stream

from exfm.artifact.storage import Ref
from exfm.registry.promotion import Judgement, PromotionRule, TaskFigures, verdict
from exfm.report.verdicts import headline, to_markdown
from exfm.training.manifest import ModelManifest
from exfm_components.artifacts import read_ref, write_model, write_ref

pytestmark = pytest.mark.slow


def test_a_models_qualities_and_those_of_its_reference_lines_are_metrics(
    stream: Stream, vertical: Ref, tmp_path: Path
) -> None:
    manifest = ModelManifest.read(stream.folder(vertical))
    model, metrics = dsl.Model(uri=str(tmp_path / "model")), dsl.Metrics()
    write_model(manifest, vertical, model=model, metrics=metrics)
    of_task = manifest.overall["click"]
    assert of_task.normalized_entropy is not None
    assert metrics.metadata["click NE"] == round(of_task.normalized_entropy, 5)
    base_rate = manifest.references["base_rate"]["click"]
    assert base_rate.normalized_entropy is not None
    assert metrics.metadata["click NE base rate"] == round(base_rate.normalized_entropy, 5)
    assert set(metrics.metadata) == {
        f"click {figure}{source}"
        for figure in ("NE", "AUC", "calibration")
        for source in ("", " base rate", " logistic")
    }
    assert model.metadata["folder"] == vertical.uri
    assert model.metadata["parameters"] == manifest.num_parameters


def test_a_reference_is_read_back_from_its_artifact(tmp_path: Path) -> None:
    ref, dataset = (
        Ref(uri="s3://bucket/examples", digest="0" * 64),
        dsl.Dataset(uri=str(tmp_path / "deep" / "examples")),
    )
    write_ref(ref, dataset, examples=7)
    assert read_ref(dataset.path) == ref
    assert dataset.metadata == {"folder": ref.uri, "digest": ref.digest, "examples": 7}


FIGURES = TaskFigures(
    task="click", num_examples=1000, num_positives=500, normalized_entropy=0.95, calibration=1.02,
    champion_entropy=0.9, champion_calibration=1.0, excess_loss=-0.07, excess_loss_error=0.01,
)  # fmt: skip


def test_the_verdicts_page_tells_outcomes_apart_and_has_every_figure() -> None:
    refused = Judgement(name="one", champion=3, num_new_windows=1, windows=(7, 8), tasks=(FIGURES,))
    better = FIGURES.model_copy(update={"normalized_entropy": 0.9})
    passed = refused.model_copy(update={"name": "two", "tasks": (better,)})
    unchanged = Judgement(name="three", champion=3, num_new_windows=0)
    verdicts = [verdict(judgement, PromotionRule()) for judgement in (refused, passed, unchanged)]
    assert headline(verdicts) == "one refused, two passed, three nothing new"
    page = to_markdown(verdicts)
    assert "## ⛔ one: refused\n\nCompared with the champion, v3, on windows 7 to 8, of which 1 are new.\n" in page
    assert "| click | NE | 0.9500 | 0.9018 | -0.0482 | ✗ |" in page
    assert "## ✅ two: passed" in page
    assert "## 💤 three: nothing new\n\nNo window was learned since v3, the champion. Nothing is registered.\n" in page
    assert "Examples: click 1,000 (500 positive)" in page
