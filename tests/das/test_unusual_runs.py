"""Logs, settings and folders that few teams have, and that must not break a run."""

from dataclasses import replace
from pathlib import Path

import pytest
from growing_log import DAY_S, SCHEMA
from small_log import SmallLog, account, clicks_only, read, run, small_das

from exfm.das.closing import LogState
from exfm.das.line_states import LineStates
from exfm.das.log_tables import Das
from exfm.das.revisions import relabel
from exfm.errors import ConfigError, SchemaError
from exfm.models.config import ModelConfig
from exfm.schema import Schema
from exfm.training.config import TrainingConfig
from exfm.training.learner import LabelLearner
from exfm.training.line import Line


@pytest.fixture
def log(tmp_path: Path) -> SmallLog:
    log = SmallLog(tmp_path / "log")
    log.react("0")
    log.show("1", (1, 0.1), (2, 1.2))
    return log


def test_a_window_of_which_two_files_have_only_repeated_rows_is_scored(tmp_path: Path, log: SmallLog) -> None:
    das = small_das(tmp_path / "root", fm_wait=0)
    for name in ("2", "3"):
        log.show(name, (1, 0.1))
    log.show("4", (3, 3.5))
    run(das, log, fm=None)
    assert account(das, "impressions", 0).states == {"examples": 1, "duplicates": 2}
    assert read(das, "pseudo_labels").filter(window=0)["id"].to_list() == [1]


def test_a_foundation_model_goes_and_examples_still_follow_their_labels(tmp_path: Path, log: SmallLog) -> None:
    das = small_das(tmp_path / "root", fm_wait=0)
    log.show("2", (3, 3.5))
    run(das, log, fm=None, other=None)
    log.show("3", (4, 0.5), (5, 5.5))
    run(das, log, fm=None)
    assert list(relabel(das)) == [0]
    run(das, log, fm=None)
    assert read(das, "examples").filter(window=0)["id"].to_list() == [1, 4]


def test_a_line_of_one_task_knows_a_window_once_all_tasks_are_labelled(tmp_path: Path) -> None:
    das = small_das(tmp_path)
    schema = SCHEMA.select(features=(), tasks=("click",))
    line = Line("foundation", "fm", schema, ModelConfig(), TrainingConfig(), LabelLearner)
    states = LineStates(LogState.of(das), line)
    assert states.known_until(3) == 5 * DAY_S
    assert [states.may_predict(3, window) for window in (4, 5)] == [False, True]


def test_files_and_folders_may_have_brackets_and_equals_signs_in_their_names(tmp_path: Path, log: SmallLog) -> None:
    log.show("day=2/[2]", (3, 3.5))
    das = small_das(tmp_path / "roo[t]")
    run(das, log)
    assert read(das, "impressions")["id"].sort().to_list() == [1, 2, 3]


def test_a_root_that_engines_take_for_a_partition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name another root"):
        small_das(tmp_path / "stage=prod")


def test_tables_refuse_other_windows(tmp_path: Path, log: SmallLog) -> None:
    das = clicks_only(small_das(tmp_path / "root"), attribution_window=DAY_S)
    run(das, log)
    longer = clicks_only(das, attribution_window=3 * DAY_S)
    for other, message in (
        (replace(das, window_length=DAY_S // 2), "a window_length of 86400, the settings have 43200"),
        (longer, "a longest attribution_window of 86400, the settings have 259200"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(other, log)
        with pytest.raises(ConfigError, match="name another root"):
            list(relabel(other))


@pytest.mark.parametrize("change", [{"domain": "kind"}, {"impression_key": "version"}])
def test_columns_of_the_tables_own_names_are_refused(tmp_path: Path, change: dict[str, str]) -> None:
    schema = Schema.parse(SCHEMA.to_dict() | change, source="the test's schema")
    with pytest.raises(SchemaError, match="rename them"):
        Das(root=str(tmp_path), schema=schema, window_length=DAY_S)
