"""Where models stand: what they learned, how well they predicted it, and how long the rest takes."""

from itertools import islice
from pathlib import Path

import pytest
from growing_log import SCHEMA, GrowingLog, das_at
from test_lines import FM, VM

from exfm.das.advance import learn, teach
from exfm.das.log_tables import Das
from exfm.das.pace import NUM_WINDOWS
from exfm.das.progress import ModelProgress, progress
from exfm.das.publishing import model_manifest, publish
from exfm.das.stages import ingest, join, label

pytestmark = pytest.mark.slow

DAYS = 7


@pytest.fixture
def log(tmp_path: Path) -> GrowingLog:
    log = GrowingLog(tmp_path / "log", days=DAYS)
    log.arrive_all()
    return log


@pytest.fixture
def das(tmp_path: Path, log: GrowingLog) -> Das:
    """Return a log whose windows are labelled."""
    das = das_at(tmp_path / "root")
    list(ingest(das, log.source))
    list(label(das))
    return das


def models(das: Das, log: GrowingLog) -> tuple[ModelProgress, ...]:
    return progress(das, log.source, foundation_models={"fm": FM}, vertical_models=[VM]).models


def test_a_model_that_learned_nothing_has_no_figures(das: Das, log: GrowingLog) -> None:
    fm, vm = models(das, log)
    num_labelled = len(das.table("labels", {}).state().files)
    assert (fm.learned, fm.due, fm.until, fm.newest, fm.examples_per_s) == (0, num_labelled, "", {}, None)
    assert (vm.due, vm.remaining_s) == (0, None), "nothing is joined"


def test_what_is_due_takes_its_examples_by_the_pace(das: Das, log: GrowingLog) -> None:
    learned = islice((done for done in teach(das, "fm", FM) if done.stage == "train-fm fm"), 3)
    assert len(list(learned)) == 3
    fm, _ = models(das, log)
    labels = das.table("labels", {}).state()
    due = sorted(labels.files)[3:]
    assert (fm.learned, fm.due) == (3, len(due))
    assert fm.examples_per_s is not None
    assert fm.remaining_s == pytest.approx(labels.num_rows(due) / fm.examples_per_s)


def test_the_examples_of_a_vertical_model_are_estimated_before_it_predicts_them(das: Das, log: GrowingLog) -> None:
    list(teach(das, "fm", FM))
    list(join(das, ["fm"]))
    learned = islice((done for done in learn(das, VM) if done.stage == "train-vm vm"), 2)
    assert len(list(learned)) == 2
    _, vm = models(das, log)
    examples = das.table("examples", {}).state()
    assert vm.due == len(examples.files) - 2
    assert vm.examples_per_s is not None
    assert vm.remaining_s is not None
    num_due = vm.remaining_s * vm.examples_per_s
    assert num_due == pytest.approx(examples.num_rows(sorted(examples.files)[2:]), rel=0.01), "it takes all domains"


def test_entropies_are_those_of_the_manifest(das: Das, log: GrowingLog) -> None:
    list(teach(das, "fm", FM))
    fm, _ = models(das, log)
    manifest = model_manifest(das, FM)
    newest = manifest.qualities[-1].tasks
    assert fm.newest == {task: newest[task].normalized_entropy for task in SCHEMA.tasks()}
    assert fm.overall == {}, "it is not published"
    publish(das, FM)
    fm, _ = models(das, log)
    assert fm.overall == {task: of.normalized_entropy for task, of in manifest.overall.items()}
    assert (fm.due, fm.remaining_s) == (0, None)


def test_only_the_newest_window_is_read(das: Das, log: GrowingLog) -> None:
    list(teach(das, "fm", FM))
    predictions = das.table("predictions", {}).state()
    newest = max(predictions.files)
    assert len(predictions.files) > NUM_WINDOWS // 2
    for window, files in predictions.files.items():
        for file in files if window != newest else ():
            (Path(predictions.uri) / file.path).unlink()
    fm, _ = models(das, log)
    assert fm.newest["stay"] is not None
