"""Names of ids come from a data set, or from a user's own files."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from exfm.errors import DataError, StorageError
from exfm.events.names import checked_names, read_names
from exfm.events.parquet import LogSource
from exfm.events.sources import about
from exfm.schema import Schema

SCHEMA = Schema.parse(
    {
        "impression_key": "id",
        "event_time": {"column": "time"},
        "domain": "domain",
        "sparse": [{"name": "item", "net": "item", "table": "item"}, {"name": "city", "net": "user", "table": "city"}],
        "tables": [{"name": "item", "rows": 8, "dim": 4}, {"name": "city", "rows": 8, "dim": 4}],
        "labels": [{"name": "click", "feedback": "click", "attribution_window": 100}],
    },
    source="test",
)
NAMES = pl.DataFrame({"id": [7, 8], "name": ["Seven", "Eight"], "more": [1, 2]})


def test_names_are_by_feature_and_id_and_only_of_features_that_the_schema_has() -> None:
    assert checked_names({"item": NAMES, "not_in_the_schema": NAMES}, SCHEMA) == {"item": {7: "Seven", 8: "Eight"}}


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        ([7, None], ["Seven", "Eight"], "names of 'item': column 'id' is null in 1 rows; fill it"),
        ([7, 8], [None, None], "names of 'item': column 'name' is null in 2 rows; fill it"),
        ([7, 7], ["Seven", "Sept"], "names of 'item': 1 ids are named more than once; name each once"),
    ],
)
def test_a_null_and_an_id_that_is_named_twice_are_refused(ids: list[Any], names: list[Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        checked_names({"item": pl.DataFrame({"id": ids, "name": names})}, SCHEMA)
    assert str(caught.value) == message


def test_a_logs_names_are_read_from_its_files_and_none_of_its_events(tmp_path: Path) -> None:
    NAMES.head(1).drop("more").write_parquet(tmp_path / "items-0.parquet")
    NAMES.tail(1).write_parquet(tmp_path / "items-1.parquet")
    source = LogSource(impressions="shown", feedback="said", names={"item": f"{tmp_path}/items-*.parquet"})
    told = about(source, SCHEMA)
    assert told.names == {"item": {7: "Seven", 8: "Eight"}}
    assert (told.source, told.notes) == ("Parquet files shown and said", ())


def test_a_missing_column_is_named_with_the_files(tmp_path: Path) -> None:
    NAMES.drop("name").write_parquet(tmp_path / "items.parquet")
    with pytest.raises(DataError, match=rf"^names of 'item' in {tmp_path}/items\.parquet: column 'name' is missing"):
        read_names(f"{tmp_path}/items.parquet", feature="item")


def test_files_that_are_not_there_or_no_parquet_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=rf"^{tmp_path}/none: no file is there"):
        read_names(f"{tmp_path}/none", feature="item")
    (tmp_path / "items.parquet").write_text("not Parquet, but long enough to be some")
    with pytest.raises(DataError, match=rf"^names of 'item': {tmp_path}/items\.parquet cannot be read .*write the fil"):
        read_names(f"{tmp_path}/items.parquet", feature="item")
