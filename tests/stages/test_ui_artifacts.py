"""What steps leave for Kubeflow's UI."""

from pathlib import Path

import pytest
from kfp import dsl
from stream import Stream

from exfm.artifact.manifest import read_json
from exfm.artifact.storage import Ref
from exfm.distill.config import VerticalConfig
from exfm.distill.line import vertical_line
from exfm.events.examples import ExampleTable
from exfm.metrics.intervals import Interval
from exfm.registry.promotion import Judgement, PromotionRule, TaskFigures, verdict
from exfm.report.verdicts import headline, to_markdown
from exfm.tables.reference import TableRef
from exfm.training.manifest import ModelManifest
from exfm_components.artifacts import refs, write_ref, write_table
from exfm_components.lines import write_model

pytestmark = pytest.mark.slow


def test_a_models_qualities_and_those_of_its_reference_lines_are_metrics(
    stream: Stream, vertical: Ref, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    manifest = ModelManifest.read(Path(vertical.uri))
    model, metrics = dsl.Model(uri=str(tmp_path / "model")), dsl.Metrics()
    line = vertical_line(vertical_config, stream.schema, teachers=("fm",))
    assert write_model(stream.das, line, model=model, metrics=metrics) == (vertical.to_dict(), manifest.headline())
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


def test_a_model_that_has_learned_nothing_is_nothing_to_later_steps(
    stream: Stream, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    model, metrics = dsl.Model(uri=str(tmp_path / "model")), dsl.Metrics()
    line = vertical_line(vertical_config.model_copy(update={"name": "unborn"}), stream.schema, teachers=())
    ref, told = write_model(stream.das, line, model=model, metrics=metrics)
    assert ref == read_json(Path(model.path)) == {}
    assert told == "unborn has learned nothing yet: it waits for a window of its examples to be closed"
    assert refs([ref, {"uri": "models/fm", "digest": "0" * 64}], source="verticals") == [
        Ref(uri="models/fm", digest="0" * 64)
    ]


def test_a_reference_is_in_its_artifact_and_its_metadata(tmp_path: Path) -> None:
    ref, model = Ref(uri="s3://bucket/bundle", digest="0" * 64), dsl.Model(uri=str(tmp_path / "deep" / "bundle"))
    write_ref(ref, model, shards=2)
    assert Ref.parse(read_json(Path(model.path)), source="artifact") == ref
    assert model.metadata == {"folder": ref.uri, "digest": ref.digest, "shards": 2}


def test_a_tables_version_is_in_its_artifact_and_its_metadata(
    stream: Stream, examples: ExampleTable, tmp_path: Path
) -> None:
    dataset = dsl.Dataset(uri=str(tmp_path / "deep" / "examples"))
    write_table(stream.das, "examples", dataset)
    found = TableRef.parse(read_json(Path(dataset.path)), source="artifact")
    assert found.state().files == examples.state.files
    assert dataset.metadata == found.to_dict() | {"rows": examples.num_examples(), "windows": len(examples.windows)}


FIGURES = TaskFigures(
    task="click", num_examples=1000, num_positives=500, normalized_entropy=0.95, calibration=1.02,
    champion_entropy=0.9, champion_calibration=1.0, ne_increase=Interval(value=0.056, low=0.031, high=0.08),
    excess_loss=-0.07, excess_loss_error=0.01,
)  # fmt: skip


def test_the_verdicts_page_tells_outcomes_apart_and_has_every_figure() -> None:
    days = {"first_window": "2026-01-05 00:00 UTC", "last_window": "2026-01-06 00:00 UTC"}
    refused = Judgement(name="one", champion=3, num_new_windows=1, windows=(7, 8), tasks=(FIGURES,), **days)
    better = FIGURES.model_copy(update={"ne_increase": Interval(value=0, low=-0.01, high=0.01)})
    passed = refused.model_copy(update={"name": "two", "tasks": (better,)})
    unchanged = Judgement(name="three", champion=3, num_new_windows=0)
    verdicts = [verdict(judgement, PromotionRule()) for judgement in (refused, passed, unchanged)]
    assert headline(verdicts) == "one refused, two passed, three nothing new"
    page = to_markdown(verdicts)
    against = "Compared with the champion, v3, on 2 windows, 2026-01-05 00:00 UTC to 2026-01-06 00:00 UTC (1 new)."
    assert f"## ⛔ one: refused\n\n{against}\n" in page
    assert "| click | NE increase beyond chance | 0.0560 [0.0310, 0.0800] | 0.0005 | -0.0305 | ✗ |" in page
    assert "NE (the champion's): click 0.9500 (0.9000)." in page
    assert "## ✅ two: passed" in page
    assert "## 💤 three: nothing new\n\nNo window was learned since v3, the champion. Nothing is registered.\n" in page
    assert "Examples: click 1,000 (500 positive)" in page
