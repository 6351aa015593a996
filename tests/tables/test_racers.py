"""Each revision of an item is committed once: by racers, and after a stop at any step."""

from typing import Any

import polars as pl
import pytest
from work import COLUMNS, commits_of, do_all, files_there, log_of, rows

from exfm.artifact.stores import join
from exfm.tables.table import Table


@pytest.mark.slow
@pytest.mark.parametrize("root", ["disk", "seaweed"], indirect=True)
def test_of_four_racers_for_one_item_one_commits_and_three_find_it_done(root: str, work: Any) -> None:
    uri = join(root, "tables", "labels")
    assert sorted(work("race", uri, 1, 1, 1, 1)) == [False, False, False, True]
    assert commits_of(uri) == {("labels/1", 1): 1}
    assert Table(uri, COLUMNS).state().read([1]).drop("window").sort("key").equals(rows(10, 11))


@pytest.mark.slow
@pytest.mark.parametrize("root", ["disk", "seaweed"], indirect=True)
def test_six_items_at_once_are_all_in(root: str, work: Any) -> None:
    uri = join(root, "tables", "labels")
    assert work("race", uri, 1, 2, 3, 4, 5, 6) == [True] * 6
    assert commits_of(uri) == {(f"labels/{window}", 1): 1 for window in range(1, 7)}
    found = Table(uri, COLUMNS).state().read(range(1, 7))
    assert found.drop("window").sort("key").equals(rows(*(10 * w + i for w in range(1, 7) for i in (0, 1))))


@pytest.mark.slow
@pytest.mark.parametrize("root", ["disk", "bucket"], indirect=True)
def test_a_process_that_stops_at_any_step_and_runs_again_leaves_what_one_run_leaves(root: str, work: Any) -> None:
    steps: list[str] = []
    undisturbed = join(root, "undisturbed")
    do_all(undisturbed, steps.append)
    assert work("stop", join(root, "stopped")) == len(steps) == 9
    wider = {**COLUMNS, "score": pl.Float64()}
    expected = Table(undisturbed, wider).state()
    for step in range(len(steps)):
        uri = join(root, "stopped", str(step))
        found = Table(uri, wider).state()
        assert found.files == expected.files, steps[step]
        assert found.read([1, 3]).equals(expected.read([1, 3]))
        assert set(commits_of(uri).values()) == {1}
        assert commits_of(uri) == commits_of(undisturbed)
        assert files_there(uri) == {action["add"]["path"] for action in log_of(uri) if "add" in action}
