"""Foundation and vertical models go on over a growing log: daily runs, a replay and killed runs leave the same."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from growing_log import SCHEMA, GrowingLog, das_at
from polars.testing import assert_frame_equal
from test_advance import StopAt, Stopped

from exfm.das.advance import advance
from exfm.das.closing import LogState
from exfm.das.log_tables import Das
from exfm.distill.config import DistillationConfig
from exfm.distill.learner import DistillationLearner
from exfm.errors import DataError
from exfm.models.config import ModelConfig, NetworkConfig
from exfm.training.config import TrainingConfig
from exfm.training.learner import LabelLearner
from exfm.training.line import Line
from exfm.training.line_trainer import STATE

pytestmark = pytest.mark.slow

SMALL = ModelConfig(network=NetworkConfig(bottom_units=(), top_units=(4,)))
FM = Line("foundation", "fm", SCHEMA, SMALL, TrainingConfig(batch_size=16), LabelLearner)
DISTILLATION = DistillationConfig()
VM = Line(
    "vertical",
    "vm",
    SCHEMA,
    SMALL,
    TrainingConfig(batch_size=16),
    partial(DistillationLearner, config=DISTILLATION, teachers=("fm",)),
    domains=("all",),
    teachers=("fm",),
    others=(DISTILLATION,),
)
TABLES = ("labels", "pseudo_labels", "examples", "predictions", "snapshots")


def run(das: Das, log: GrowingLog, *, fm: Line = FM, vm: Line = VM) -> list[str]:
    done = advance(das, log.source, foundation_models={"fm": fm}, vertical_models=[vm])
    return [f"{one.stage} {one.item}" for one in done]


def rows(das: Das, table: str) -> pl.DataFrame:
    state = das.table(table, {}).state()
    found = state.read(state.files).drop("inputs", strict=False)
    return found.sort(found.columns)


def states(das: Das) -> dict[str, bytes]:
    root = Path(das.root)
    return {str(file.relative_to(root)): file.read_bytes() for file in (root / "models").rglob("*.safetensors")}


def assert_same(das: Das, expected: Das) -> None:
    for table in TABLES:
        assert_frame_equal(rows(das, table), rows(expected, table))
    assert states(das) == states(expected)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> GrowingLog:
    log = GrowingLog(tmp_path_factory.mktemp("log"), days=7)
    log.arrive_all()
    return log


@pytest.fixture(scope="module")
def replayed(log: GrowingLog, tmp_path_factory: pytest.TempPathFactory) -> Das:
    das = das_at(tmp_path_factory.mktemp("replay"))
    run(das, log)
    return das


def test_daily_runs_leave_what_a_replay_does(tmp_path: Path, replayed: Das) -> None:
    log, das = GrowingLog(tmp_path / "log", days=7), das_at(tmp_path / "root")
    for day in range(log.days):
        log.arrive(day)
        run(das, log)
    assert_same(das, replayed)
    assert run(das, log) == []


def test_a_run_that_is_killed_over_and_over_leaves_the_bytes_of_one(
    tmp_path: Path, log: GrowingLog, replayed: Das
) -> None:
    for step in range(2, 1_000, 9):
        try:
            run(das_at(tmp_path, on_step=StopAt(step)), log)
            break
        except Stopped:
            continue
    assert step > 20
    assert_same(das_at(tmp_path), replayed)


def test_no_state_knows_labels_from_after_the_start_of_a_window_that_it_predicts(replayed: Das) -> None:
    known = {row["version"]: row["known_until"] for row in rows(replayed, "snapshots").iter_rows(named=True)}
    grid = replayed.grid
    for table, column in (("pseudo_labels", "snapshot"), ("predictions", "version")):
        predicted = rows(replayed, table).select(column, "window").drop_nulls().unique()
        assert len(predicted) > 2
        for version, window in predicted.iter_rows():
            assert known[version] <= grid.window(window).start // replayed.ticks(1)


def test_each_window_is_learned_once_in_order(replayed: Das) -> None:
    snapshots = rows(replayed, "snapshots").sort("model", "window")
    closed = sorted(LogState.of(replayed).labels.files)
    for name in ("fm", "vm"):
        of_model = snapshots.filter(model=name)
        assert of_model["window"].to_list() == closed
        assert of_model["parent"].to_list() == ["", *of_model["version"].to_list()[:-1]]


def test_other_settings_begin_another_line_and_keep_the_old_one(tmp_path: Path, log: GrowingLog) -> None:
    das = das_at(tmp_path)
    run(das, log)
    before = rows(das, "snapshots")
    other = replace(VM, training=TrainingConfig(batch_size=8))
    assert {one.split()[0] for one in run(das, log, vm=other)} == {"predict", "train-vm"}
    after = rows(das, "snapshots")
    assert_frame_equal(after.join(before, on=after.columns, how="semi").sort(after.columns), before)
    assert after.height - before.height == before.filter(model="vm").height


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (float("nan"), r"^fm: training diverged in window 3: weights are no numbers; normalise dense features, or low"),
        (1e4, r"in window 3: NE of task 'click' is \d.* on examples that it just learned, expected at most 5 times"),
    ],
    ids=["nan", "explosion"],
)
def test_a_model_that_diverges_stops_and_goes_on_from_its_last_good_state(
    weight: float, message: str, tmp_path: Path, log: GrowingLog, replayed: Das
) -> None:
    das = das_at(tmp_path)
    wild = replace(FM, make=lambda model: Exploding(model, windows=3, weight=weight))
    for _ in range(2):  # a model that goes on from the state before has only one window left to it
        with pytest.raises(DataError, match=message):
            run(das, log, fm=wild)
        assert rows(das, "snapshots").height == 3
        assert len(states(das)) == 3 * len(STATE)
        wild = replace(FM, make=lambda model: Exploding(model, windows=0, weight=weight))
    run(das, log)
    assert_same(das, replayed)


class Exploding(LabelLearner):
    """Learns some windows, and then has a wild serving head."""

    def __init__(self, model: object, *, windows: int, weight: float) -> None:
        super().__init__(model)  # type: ignore[arg-type]
        self._left, self._weight = windows, weight

    def begin(self, window: object, examples: object, scores_BT: object) -> None:
        self._left -= 1
        if self._left < 0:
            self.model.network.serving_head.weight.data.fill_(self._weight)
