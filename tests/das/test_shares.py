"""A backfill that several processes share leaves the rows of one process, each window done once."""

from pathlib import Path

import pytest
from delta_logs import items
from growing_log import GrowingLog, assert_same, das_at, rows_of

from exfm.artifact.storage import Ref
from exfm.das.advance import advance, teach
from exfm.das.shares import WHOLE, Share, shares
from exfm.das.stages import ingest, join, label
from exfm.errors import ConfigError


@pytest.mark.slow
def test_shares_of_a_backfill_leave_the_rows_of_one_process(tmp_path: Path, foundation: Ref) -> None:
    log = GrowingLog(tmp_path / "log", days=6, rows_a_day=40)
    log.arrive_all()
    alone, shared = das_at(tmp_path / "alone"), das_at(tmp_path / "shared")
    list(advance(alone, log.source, foundation_models={"fm": foundation}))
    list(ingest(shared, log.source))
    parts = shares(6, at_most=4)
    for stage in (lambda part: label(shared, part), lambda part: teach(shared, "fm", foundation, part)):
        done = [{one.item for one in stage(part)} for part in reversed(parts)]
        assert sum(map(len, done)) == len(set.union(*done)) >= 4
        assert all(done)
    done = [{one.item for one in join(shared, ["fm"], part)} for part in parts]
    assert all(done)
    assert {one.stage for one in join(shared, ["fm"])} == {"report"}
    assert_same(rows_of(shared), rows_of(alone))
    assert set(items(shared).values()) == {1}


def test_shares_have_each_window_once() -> None:
    windows = [-7, -2, 3, 20_454, 20_455, 20_456, 20_457]
    parts = shares(len(windows), at_most=3)
    assert sorted(window for part in parts for window in part.windows(windows)) == windows
    assert all(part.windows(windows) for part in parts)


@pytest.mark.parametrize(("num_windows", "at_most"), [(0, 8), (1, 8), (100, 1)])
def test_what_one_process_may_as_well_do_has_no_shares(num_windows: int, at_most: int) -> None:
    assert shares(num_windows, at_most=at_most) == []


def test_a_share_is_read_as_it_is_written() -> None:
    assert [str(share) for share in shares(2, at_most=8)] == ["1/2", "2/2"]
    assert Share.parse("7/8") == Share(7, 8)
    assert Share.parse("") == WHOLE


@pytest.mark.parametrize("text", ["3/2", "0/2", "1", "1/2/3", "a/b", "-1/2"])
def test_another_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 2/8"):
        Share.parse(text)
