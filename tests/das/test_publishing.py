"""A model's manifest says the same whenever runs came, and its predictions knew nothing of the time they speak of."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from growing_log import SCHEMA
from small_log import SmallLog, read, small_das
from taught_log import DAYS, FOUNDATION, ROWS_A_DAY, write_week

from exfm.artifact.storage import MANIFEST, reading, ref_to
from exfm.artifact.stores import join, local_copy
from exfm.das.advance import advance, teach
from exfm.das.closing import LogState
from exfm.das.joining import example_table
from exfm.das.log_tables import Das
from exfm.das.publishing import publish
from exfm.das.stages import ingest, label
from exfm.distill.config import VerticalConfig
from exfm.distill.line import vertical_line
from exfm.errors import DataError, StorageError
from exfm.foundation.line import foundation_line
from exfm.metrics.quality import quality
from exfm.models.ranking import RankingModel
from exfm.training.checkpoint import load_weights
from exfm.training.config import TrainingConfig
from exfm.training.data import Data
from exfm.training.evaluation import predictions_of
from exfm.training.line import Line
from exfm.training.line_trainer import STATE, LineTrainer
from exfm.training.manifest import BASE_RATE, EXAMPLES, LOGISTIC, PREDICTIONS, ModelManifest

pytestmark = pytest.mark.slow

FM = foundation_line(FOUNDATION, SCHEMA)
VM = vertical_line(
    VerticalConfig(
        name="vm",
        domains=("a", "b"),
        model=FOUNDATION.model,
        training=TrainingConfig(batch_size=16, learning_rate=0.05, warmup_windows=2),
    ),
    SCHEMA,
    teachers=("fm",),
)
LINES = pytest.mark.parametrize("line", [FM, VM], ids=["fm", "vm"])
FLIP_FROM = 4
SOURCES = ("score", BASE_RATE, LOGISTIC)


def run(das: Das, log: SmallLog, *, until: int | None = None, vm: Line = VM) -> None:
    until = None if until is None else das.ticks(until * das.window_length)
    for _ in advance(das, log.source, foundation_models={"fm": FM}, vertical_models=[vm], until=until):
        pass


@dataclass(frozen=True)
class Published:
    """A log on which two models learned, and their manifests."""

    das: Das
    log: SmallLog

    def manifest(self, line: Line) -> ModelManifest:
        return ModelManifest.read(Path(publish(self.das, line).uri))

    def predictions(self, line: Line) -> pl.DataFrame:
        manifest = self.manifest(line)
        return predictions_of(manifest, manifest.windows).sort("id")


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Published]:
    """Return what replays a log, whose feedback is the contrary from some day on."""

    def make(*, flip_from: int = DAYS) -> Published:
        folder = tmp_path_factory.mktemp("replay")
        found = Published(small_das(folder / "root"), write_week(folder / "log", flip_from=flip_from))
        run(found.das, found.log, until=DAYS + 1)
        return found

    return make


@pytest.fixture(scope="module")
def replayed(replay: Callable[..., Published]) -> Published:
    return replay()


@pytest.fixture(scope="module")
def flipped(replay: Callable[..., Published]) -> Published:
    """Return the log whose feedback is the contrary from FLIP_FROM on."""
    return replay(flip_from=FLIP_FROM)


@pytest.fixture(scope="module")
def daily(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Return the log after a run a day, each of which published both models, once they had learned."""
    folder = tmp_path_factory.mktemp("daily")
    found = Published(small_das(folder / "root"), SmallLog(folder / "log"))
    for days in range(1, DAYS + 1):
        write_week(found.log.folder, days=days)
        run(found.das, found.log)
        if days > 3:
            publish(found.das, FM)
            publish(found.das, VM)
    run(found.das, found.log, until=DAYS + 1)
    return found


def test_a_foundation_model_with_other_settings_records_its_own_scores(tmp_path: Path) -> None:
    log, das = write_week(tmp_path / "log"), small_das(tmp_path / "root")
    run(das, log)
    other = replace(FM, training=FM.training.model_copy(update={"learning_rate": 0.2}))
    for _ in teach(das, "fm", other):
        pass
    before, after = (Published(das, log).predictions(line) for line in (FM, other))
    assert before["id"].equals(after["id"])
    assert not before["score.click"].equals(after["score.click"])
    versions = read(das, "predictions").filter(line=other.digest)["version"].drop_nulls()
    assert versions.str.starts_with(other.part).all()
    pseudo = read(das, "pseudo_labels").sort("id").join(before.select("id"), on="id", how="semi")
    assert np.array_equal(pseudo["click"].fill_null(0.5), before["score.click"])


def test_the_warm_up_stays_what_it_was_when_windows_are_removed(tmp_path: Path) -> None:
    log, das = write_week(tmp_path / "log"), small_das(tmp_path / "root", keep_windows=4)
    run(das, log, until=DAYS + 1)
    manifest = Published(das, log).manifest(VM)
    kept = [window.index for window in manifest.windows]
    assert len(kept) < DAYS
    assert (manifest.first_learned, manifest.counted_from) == (0, VM.training.warmup_windows)
    assert [window.index for window in manifest.counted] == kept
    assert manifest.overall["click"].num_examples == sum(of.tasks["click"].num_examples for of in manifest.qualities)
    assert manifest.learned_until == DAYS * das.window_length


@LINES
def test_daily_runs_leave_the_manifest_of_one_replay(line: Line, daily: Published, replayed: Published) -> None:
    found, expected = (of.manifest(line).to_dict() | {"tables": {}} for of in (daily, replayed))
    for snapshot in (*found["snapshots"], *expected["snapshots"]):
        del snapshot["examples"]  # the version that there was then
    assert found == expected
    assert len(expected["qualities"]) == len(expected["snapshots"]) == DAYS
    assert all(of["tables"]["item"]["num_keys"] for of in expected["qualities"])
    assert bool(expected["teacher_weights"]) == (line is VM)


@LINES
def test_a_run_with_nothing_due_leaves_the_manifest_that_is_there(line: Line, replayed: Published) -> None:
    before = publish(replayed.das, line)
    run(replayed.das, replayed.log)
    assert publish(replayed.das, line) == before == ref_to(before.uri)


def test_a_manifest_that_is_of_all_windows_and_states_is_found_without_reading_a_row(tmp_path: Path) -> None:
    das, log = small_das(tmp_path / "root"), write_week(tmp_path / "log", days=4)
    list(advance(das, log.source, foundation_models={"fm": FM}))
    before = publish(das, FM)
    for table in (PREDICTIONS, "snapshots"):
        for file in (tmp_path / "root" / "tables" / table).rglob("window=*/*.parquet"):
            file.unlink()
    assert publish(das, FM) == before
    Path(before.uri, MANIFEST).unlink()
    with pytest.raises(StorageError, match=PREDICTIONS):
        publish(das, FM)


@LINES
def test_labels_change_no_prediction_of_what_was_shown_before_they_were_known(
    line: Line, replayed: Published, flipped: Published
) -> None:
    found, expected = flipped.predictions(line), replayed.predictions(line)
    columns = [f"{source}.{task}" for source in SOURCES for task in SCHEMA.tasks()]
    is_before = pl.col("window") <= FLIP_FROM
    assert found.filter(is_before).select(columns).equals(expected.filter(is_before).select(columns))
    is_next = pl.col("window") == FLIP_FROM + 1  # the first that a state predicts which learned a contrary label
    for column in columns:
        assert not found.filter(is_next)[column].equals(expected.filter(is_next)[column]), column


@LINES
def test_before_its_first_state_a_model_predicts_a_half(line: Line, replayed: Published) -> None:
    rows = read(replayed.das, "predictions").filter(pl.col("model") == line.name)
    assert rows.filter(pl.col("version").is_null())["window"].unique().sort().to_list() == [0, 1]
    first = rows.filter(pl.col("window") < 2).select(
        f"{source}.{task}" for source in SOURCES for task in SCHEMA.tasks()
    )
    assert set(np.unique(first.to_numpy())) == {0.5}
    assert rows.filter(pl.col("window") == 2)["version"].unique().to_list() == [line.version(0)]


def test_a_foundation_models_predictions_are_its_pseudo_labels(replayed: Published) -> None:
    pseudo = read(replayed.das, "pseudo_labels").sort("id")
    predictions = replayed.predictions(FM)
    assert predictions["id"].equals(pseudo["id"])
    assert pseudo.filter(pl.col("window") < 2)["click"].null_count() == 2 * ROWS_A_DAY
    for task in SCHEMA.tasks():
        assert predictions[f"score.{task}"].equals(pseudo[task].fill_null(0.5).alias(f"score.{task}"))


@LINES
def test_a_prediction_is_the_score_of_the_newest_state_that_knew_nothing_later(line: Line, replayed: Published) -> None:
    manifest = replayed.manifest(line)
    window = manifest.windows[5]
    snapshot = manifest.snapshot_for(window.start)
    assert snapshot is not None
    assert snapshot.window == 3
    model = RankingModel(manifest.feature_schema, manifest.model)
    load_weights(model, Path(replayed.das.root) / "models" / line.name / snapshot.folder)
    data = Data(example_table(LogState.of(replayed.das)), manifest.feature_schema, domains=line.domains)
    examples = data.read(window)
    rows = pl.DataFrame([examples.keys]).join(predictions_of(manifest, [window]), on="id", maintain_order="left")
    expected_BT = model.probabilities(examples.batches)
    np.testing.assert_allclose(rows.select("score.click", "score.stay").to_numpy(), expected_BT, rtol=1e-6)
    assert np.ptp(expected_BT[:, 0]) > 0.01, "a constant model would pass for any other"


def test_the_manifest_names_the_examples_that_were_there(replayed: Published) -> None:
    examples = replayed.manifest(VM).examples()
    state = LogState.of(replayed.das)
    assert examples.num_examples() == example_table(state).num_examples() == DAYS * ROWS_A_DAY
    assert replayed.manifest(VM).tables[EXAMPLES].version == state.examples.version


def test_a_vertical_model_predicts_the_examples_of_its_domains(replayed: Published) -> None:
    assert set(replayed.predictions(VM)["domain"]) == {"a", "b"}
    assert set(replayed.predictions(FM)["domain"]) == {"a", "b", "c"}


@LINES
def test_overall_figures_are_of_all_predictions_after_the_warm_up(line: Line, replayed: Published) -> None:
    manifest = replayed.manifest(line)
    warmup = line.training.warmup_windows
    counted = predictions_of(manifest, manifest.windows[warmup:])
    for task in SCHEMA.tasks():
        for source, found in (("score", manifest.overall), *manifest.references.items()):
            columns = (counted[f"{kind}.{task}"].to_numpy() for kind in (source, "label", "weight"))
            assert found[task] == quality(*columns)
    assert manifest.overall["click"].num_examples == counted.height > ROWS_A_DAY * 2


@LINES
def test_what_a_model_lacks_of_the_base_rate_is_the_difference_of_their_entropies(
    line: Line, replayed: Published
) -> None:
    manifest = replayed.manifest(line)
    assert manifest.references.keys() == {BASE_RATE, LOGISTIC}
    for task, excess in manifest.over_base_rate.items():
        own, base = manifest.overall[task], manifest.references[BASE_RATE][task]
        assert own.normalized_entropy is not None
        assert base.normalized_entropy is not None
        assert excess.entropy == pytest.approx(own.normalized_entropy - base.normalized_entropy, abs=1e-7)
        assert excess.low is not None
        assert excess.high is not None
        assert excess.low < excess.entropy < excess.high
    assert manifest.over_base_rate.keys() == set(SCHEMA.tasks())


def test_a_model_that_has_learned_nothing_is_told_with_what_helps(tmp_path: Path) -> None:
    das = small_das(tmp_path / "root")
    run(das, write_week(tmp_path / "log", days=1))
    message = r"^fm: it has learned nothing, because no window with examples of any domain has all its labels; the log"
    with pytest.raises(DataError, match=message):
        publish(das, FM)
    assert not (tmp_path / "root" / "models").exists()


def test_a_model_of_a_domain_that_no_example_has_is_told_so(replayed: Published) -> None:
    line = replace(VM, name="none", domains=("serch",))
    run(replayed.das, replayed.log, vm=line)
    with pytest.raises(DataError, match=r"^none: it has learned nothing, .* of domain 'serch' has .* correct `dom"):
        publish(replayed.das, line)


def test_a_foundation_model_is_published_before_anything_is_joined(tmp_path: Path) -> None:
    das, log = small_das(tmp_path / "root"), write_week(tmp_path / "log", days=4)
    for _ in (*ingest(das, log.source), *label(das), *teach(das, "fm", FM)):
        pass
    manifest = Published(das, log).manifest(FM)
    assert manifest.tables.keys() == {PREDICTIONS}
    assert [snapshot.window for snapshot in manifest.snapshots] == [0, 1]


@LINES
@pytest.mark.parametrize("file", STATE)
def test_a_state_that_lacks_a_file_is_refused(line: Line, file: str, replayed: Published, tmp_path: Path) -> None:
    root = Path(replayed.das.root)
    folder = Path(line.folder(str(tmp_path), 0))
    folder.parent.mkdir(parents=True)
    folder.mkdir()
    for one in Path(line.folder(str(root), 0)).iterdir():
        if one.name != file:
            (folder / one.name).write_bytes(one.read_bytes())
    with pytest.raises(StorageError, match=file):
        LineTrainer(line, str(tmp_path)).go_on(0)


def test_a_root_in_s3_has_the_same_manifest_and_states(bucket: str, tmp_path: Path) -> None:
    log, found = write_week(tmp_path / "log", days=4), []
    for root in (bucket, str(tmp_path / "root")):
        das = small_das(root)
        for _ in advance(das, log.source, foundation_models={"fm": FM}):
            pass
        ref = publish(das, FM)
        assert ref.uri == join(root, "models", "fm")
        with reading(ref) as folder:
            manifest = ModelManifest.read(folder)
        assert manifest.tables[PREDICTIONS].table == join(root, "tables", PREDICTIONS)
        assert example_table(LogState.of(das)).num_examples() == 2 * ROWS_A_DAY
        with local_copy(join(ref.uri, manifest.snapshots[-1].folder), STATE) as folder:
            state = {name: (folder / name).read_bytes() for name in STATE}
        found.append((manifest.to_dict() | {"tables": {}}, predictions_of(manifest, manifest.windows), state))
    assert found[0][0] == found[1][0]
    assert found[0][1].equals(found[1][1])
    assert found[0][2] == found[1][2]
