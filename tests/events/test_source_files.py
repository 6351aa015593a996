"""Files of a source arrive by name, and each is read a slice at a time."""

import os
import re
import time
from pathlib import Path

import polars as pl
import pytest
from click_schema import SCHEMA
from polars.testing import assert_frame_equal

from exfm.errors import DataError, StorageError
from exfm.events import source_files as module
from exfm.events.parquet import LogSource
from exfm.events.schemas import SYNTHETIC
from exfm.events.source_files import SourceFile, is_finite, slices, source_files
from exfm.events.sources import load
from exfm.events.synthetic import SyntheticSource
from exfm.schema import Schema

SHOWN = pl.DataFrame({"id": [1, 2, 3], "time": [10, 20, 30], "domain": ["a"] * 3, "item": [7, 8, 9]})
SAID = pl.DataFrame({"id": [1], "time": [11], "kind": ["click"]})


def read(source: LogSource | SyntheticSource, part: str, *, schema: Schema = SCHEMA) -> pl.DataFrame:
    """Return all rows of a part, in order of arrival."""
    files = [file for file in source_files(source) if file.part == part]
    return pl.concat([rows for file in files for rows in slices(file, source, schema=schema)])


@pytest.fixture
def log(tmp_path: Path) -> LogSource:
    """Return a log whose impressions are a glob, and whose feedback is a file."""
    SHOWN.head(1).write_parquet(tmp_path / "shown-0.parquet")
    SHOWN.tail(2).with_columns(pl.lit(1).alias("more")).write_parquet(tmp_path / "shown-1.parquet")
    SAID.write_parquet(tmp_path / "said.parquet")
    return LogSource(impressions=f"{tmp_path}/shown-*.parquet", feedback=f"{tmp_path}/said.parquet")


def test_a_file_has_the_columns_of_the_schema_and_the_place_of_each_row(log: LogSource) -> None:
    found = read(log, "impressions")
    assert_frame_equal(found.drop("row"), SHOWN)
    assert found["row"].to_list() == [0, 0, 1]
    assert_frame_equal(read(log, "feedback").drop("row"), SAID)  # whose value is left out


def test_files_tell_their_name_and_size(log: LogSource, tmp_path: Path) -> None:
    found = source_files(log)
    assert [(file.part, file.name) for file in found] == [
        ("feedback", "said.parquet"), ("impressions", "shown-0.parquet"), ("impressions", "shown-1.parquet"),
    ]  # fmt: skip
    assert [file.size_bytes for file in found] == [(tmp_path / file.name).stat().st_size for file in found]


def test_a_file_that_is_still_written_is_hidden(tmp_path: Path) -> None:
    for part, rows in (("impressions", SHOWN), ("feedback", SAID)):
        (tmp_path / part).mkdir()
        rows.write_parquet(tmp_path / part / "1.parquet")
    (tmp_path / "impressions" / ".2.parquet.0a1b2c3d.partial").write_bytes(b"PAR1")
    log = LogSource(impressions=str(tmp_path / "impressions"), feedback=str(tmp_path / "feedback"))
    assert [file.name for file in source_files(log)] == ["1.parquet"] * 2


def test_a_file_and_all_after_it_wait_until_it_has_settled(tmp_path: Path) -> None:
    now_s = time.time()
    log = LogSource(impressions=f"{tmp_path}/shown", feedback=f"{tmp_path}/said", settle_s=60)
    for part, age_of in (("shown", {"1": 90, "3": 10, "4": 90}), ("said", {"2": 90, "3": 90, "5": 90})):
        (tmp_path / part).mkdir()
        for name, age_s in age_of.items():
            (tmp_path / part / name).write_bytes(b"PAR1")
            os.utime(tmp_path / part / name, (now_s - age_s, now_s - age_s))
    assert [(file.part, file.name) for file in source_files(log)] == [
        ("impressions", "1"), ("feedback", "2"), ("feedback", "3"),
    ]  # fmt: skip
    at_once = source_files(log.model_copy(update={"settle_s": 0}))
    assert [file.name for file in at_once] == ["1", "2", "3", "3", "4", "5"]


def test_rows_come_in_slices_that_count_on(log: LogSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "SLICE_ROWS", 2)
    SHOWN.write_parquet(tmp_path / "shown-0.parquet")
    parts = list(slices(source_files(log)[1], log, schema=SCHEMA))
    assert [part["row"].to_list() for part in parts] == [[0, 1], [2]]
    assert_frame_equal(pl.concat(parts).drop("row"), SHOWN)


def test_a_file_without_rows_has_its_columns(tmp_path: Path, log: LogSource) -> None:
    SHOWN.clear().write_parquet(tmp_path / "shown-0.parquet")
    [part] = slices(source_files(log)[1], log, schema=SCHEMA)
    assert part.schema == {"row": pl.Int64, **SHOWN.schema}


def test_a_data_set_is_one_file_of_each_part() -> None:
    source, schema = SyntheticSource(num_impressions=1_000, num_users=50, num_ads=50), Schema.read(SYNTHETIC)
    assert [(file.part, file.name) for file in source_files(source)] == [
        ("feedback", "synthetic"), ("impressions", "synthetic"),
    ]  # fmt: skip
    assert is_finite(source)
    log = load(source)
    for part, rows in (("impressions", log.impressions), ("feedback", log.feedback)):
        found = read(source, part, schema=schema)
        assert_frame_equal(found.drop("row"), rows.select(found.drop("row").columns))
        assert found["row"].to_list() == list(range(rows.height))


@pytest.mark.parametrize("files", ["none/impressions.parquet", "none-*.parquet", "empty", "none"])
def test_files_that_are_not_there_are_named(tmp_path: Path, files: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match=re.escape(f"{tmp_path}/{files}: no file is there; name a file, a folder")):
        source_files(LogSource(impressions=f"{tmp_path}/{files}", feedback=f"{tmp_path}/{files}"))


@pytest.mark.parametrize("content", [b"not Parquet, but long enough to be some", b"PAR1"])
@pytest.mark.parametrize("name", ["a.parquet", "notes.txt"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    assert refusal(tmp_path / name, content).startswith(f"impressions: {tmp_path}/{name} is damaged, or no Parquet fi")


def test_a_damaged_page_is_told_with_its_file(tmp_path: Path) -> None:
    pl.concat([SHOWN] * 3000).write_parquet(tmp_path / "whole.parquet")
    content = bytearray((tmp_path / "whole.parquet").read_bytes())
    content[4:2000] = bytes(1996)
    assert refusal(tmp_path / "a.parquet", bytes(content)).startswith(f"impressions: {tmp_path}/a.parquet is damaged")


def refusal(path: Path, content: bytes) -> str:
    """Return why a file of impressions is refused."""
    path.write_bytes(content)
    file = SourceFile(part="impressions", name=path.name, uri=str(path), size_bytes=len(content))
    with pytest.raises(DataError) as caught:
        list(slices(file, LogSource(impressions=str(path), feedback=str(path)), schema=SCHEMA))
    return str(caught.value)
