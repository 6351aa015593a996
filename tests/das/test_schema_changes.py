"""A feature that is added to the schema is null in older rows; one that is removed is no longer read; both are told."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from growing_log import SCHEMA, GrowingLog, das_at

from exfm.das.advance import advance
from exfm.das.closing import LogState
from exfm.das.log_tables import Das
from exfm.errors import DataError
from exfm.schema import Schema

pytestmark = pytest.mark.slow

LOG = {"days": 8, "rows_a_day": 20}
CHANGED_AT = 3
"""The day from which on `item` is another feature, `shop`."""


def changed_schema() -> Schema:
    data = SCHEMA.to_dict()
    shop = data["sparse"][0] | {"name": "shop"}
    return Schema.parse(data | {"sparse": [shop]}, source="the changed schema")


def add_shops(log: GrowingLog, day: int) -> None:
    path = log.folder / "impressions" / f"day-{day:02d}.parquet"
    pl.read_parquet(path).rename({"item": "shop"}).write_parquet(path)


@pytest.fixture(scope="module")
def told_and_das(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Das]:
    folder = tmp_path_factory.mktemp("changed")
    log, das = GrowingLog(folder / "log", **LOG), das_at(folder / "root")
    told = []
    for day in range(log.days):
        log.arrive(day)
        if day >= CHANGED_AT:
            das = replace(das, schema=changed_schema())
            add_shops(log, day)
        told += [done.item for done in advance(das, log.source, foundation_models={}) if done.stage == "schema"]
    return told, das


def test_a_change_is_told_once_in_one_line(told_and_das: tuple[list[str], Das]) -> None:
    assert told_and_das[0] == ["shop: new, and null in rows before; item: no longer read"]


def test_a_new_feature_is_null_in_older_rows(told_and_das: tuple[list[str], Das]) -> None:
    state = LogState.of(told_and_das[1])
    for table in (state.impressions, state.examples):
        assert {"item", "shop"} <= set(table.columns)
    rows = state.impressions.read(state.impressions.files)
    is_new = pl.col("arrival") >= f"day-{CHANGED_AT:02d}"
    assert rows.filter(is_new)["shop"].null_count() == rows.filter(~is_new)["item"].null_count() == 0
    assert rows.filter(~is_new)["shop"].null_count() == rows.filter(~is_new).height > 0
    examples = state.examples.read(state.examples.files)
    shops = rows.select("id", "shop").unique("id")
    assert examples.select("id", "shop").sort("id").equals(shops.join(examples, on="id", how="semi").sort("id"))


def test_a_feature_that_left_the_schema_is_no_longer_read(told_and_das: tuple[list[str], Das]) -> None:
    state = LogState.of(told_and_das[1])
    assert "item" not in state.impression_columns
    newest = state.examples.read([max(state.examples.files)])
    assert newest["item"].null_count() == newest.height > 0


def test_a_feature_drifts_once_the_window_before_has_it(told_and_das: tuple[list[str], Das]) -> None:
    state = LogState.of(told_and_das[1])
    drifts = state.report.read(state.report.files).filter(pl.col("figure") == "drift")
    has_shops = [window for window in sorted(state.examples.files) if state.examples.read([window])["shop"].count()]
    assert min(has_shops) > 0
    assert sorted(drifts.filter(pl.col("of") == "shop")["window"]) == has_shops[1:]


def test_a_file_that_lacks_a_new_feature_is_refused(tmp_path: Path) -> None:
    log, das = GrowingLog(tmp_path / "log", **LOG), das_at(tmp_path / "root")
    log.arrive(0)
    list(advance(das, log.source, foundation_models={}))
    log.arrive(1)
    with pytest.raises(DataError, match="'shop' is missing"):
        list(advance(replace(das, schema=changed_schema()), log.source, foundation_models={}))
