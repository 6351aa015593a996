from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from exfm.errors import DataError, StorageError
from exfm.events.fitting import ColumnFit, FilesFit, fit_feedback, fit_impressions, require_fit
from exfm.schema import Schema

SCHEMA: dict[str, Any] = {
    "impression_key": "id",
    "event_time": {"column": "at"},
    "domain": "domain",
    "weight": "weight",
    "negative_sampling_rate": "rate",
    "dense": [{"name": "age", "net": "user"}],
    "sparse": [
        {"name": "item", "net": "item", "table": "item"},
        {"name": "words", "net": "item", "kind": "bag", "id_type": "string", "table": "item"},
    ],
    "tables": [{"name": "item", "rows": 8, "dim": 4}],
    "labels": [{"name": "click", "feedback": "click", "attribution_window": 100}],
}
NOW_S = 1_782_907_200
IMPRESSIONS = pl.DataFrame(
    {
        "id": [1, 2, 3], "at": [NOW_S] * 3, "domain": ["feed"] * 3, "weight": [1.0] * 3, "rate": [0.5] * 3,
        "age": [30.0, 40.0, 50.0], "item": [7, 8, 9], "words": [["a"], [], None],
    }
)  # fmt: skip
FEEDBACK = pl.DataFrame({"id": [1], "at": [NOW_S + 5], "kind": ["click"]})


def schema(**changes: Any) -> Schema:
    return Schema.parse(SCHEMA | changes, source="tests")


def fit(folder: Path, *files: pl.DataFrame, with_schema: Schema | None = None) -> FilesFit:
    for number, rows in enumerate(files):
        rows.write_parquet(folder / f"{number}.parquet")
    return fit_impressions(f"{folder}/*.parquet", with_schema or schema())


def column(found: FilesFit, name: str) -> ColumnFit:
    """Return the only column that does not fit."""
    assert found.unfit == (name,)
    return next(one for one in found.columns if one.column == name)


def applied(name: str, remedy: str) -> Schema:
    """Return the schema with the line between backquotes."""
    line = remedy.split("`")[1]
    if line.startswith("event_time: "):
        return schema(**yaml.safe_load(line))
    changes = yaml.safe_load("{" + line + "}")
    features = {
        key: [one | changes if one["name"] == name else one for one in SCHEMA[key]] for key in ("dense", "sparse")
    }
    return schema(**features)


def test_files_that_fit_are_told_so(tmp_path: Path) -> None:
    found = fit(tmp_path, IMPRESSIONS, IMPRESSIONS.with_columns(pl.lit(1).alias("more")), IMPRESSIONS.clear())
    assert list(found.lines()) == [
        f"impressions in {tmp_path}/*.parquet: 6 rows in 3 files",
        *(f"  {name:6}  fits" for name in ("id", "at", "domain", "rate", "weight", "age", "item", "words")),
    ]
    require_fit([found])


@pytest.mark.parametrize(
    ("changed", "name", "problem", "line"),
    [
        (
            pl.col("at") * 1000, "at",
            "6 of 6 rows: after the year 5138, expected seconds since 1970-01-01 UTC (milliseconds? set `unit: ms` of "
            "event_time)", "event_time: {column: at, kind: absolute, unit: ms}",
        ),
        (
            pl.col("at") * 10**9, "at",
            "6 of 6 rows: after the year 5138, expected seconds since 1970-01-01 UTC (milliseconds? set `unit: ms` of "
            "event_time)", "event_time: {column: at, kind: absolute, unit: ns}",
        ),
        (
            pl.col("age").replace(40.0, None), "age",
            "2 of 6 rows: missing, expected a number, or `missing: mean` in the schema", "missing: mean",
        ),
        (
            pl.col("item").cast(pl.String), "item",
            "has ids of type string, expected int64; convert them, or declare the other id_type in the schema (in "
            "FOLDER/0.parquet and 1 more)", "id_type: string",
        ),
        (
            pl.concat_list("item"), "item",
            "is list<item: int64>; a single feature needs one id a row; convert it (in FOLDER/0.parquet and 1 "
            "more)", "kind: bag",
        ),
        (
            pl.lit("a").alias("words"), "words",
            "is string; a bag feature needs a list of ids a row; convert it (in FOLDER/0.parquet and 1 more)",
            "kind: single",
        ),
        (
            pl.col("item").alias("words"), "words",
            "is int64; a bag feature needs a list of ids a row; convert it (in FOLDER/0.parquet and 1 more)",
            "kind: single, id_type: int64",
        ),
    ],
)  # fmt: skip
def test_a_column_that_another_line_makes_fit_gets_that_line(
    tmp_path: Path, changed: pl.Expr, name: str, problem: str, line: str
) -> None:
    rows = IMPRESSIONS.with_columns(changed)
    found = column(fit(tmp_path, rows, rows), name)
    assert [one.replace(str(tmp_path), "FOLDER") for one in found.problems] == [problem]
    assert found.remedy == f"with `{line}` in the schema it fits"
    require_fit([fit(tmp_path, rows, with_schema=applied(name, found.remedy))])


def test_timestamps_are_no_ordinal_time(tmp_path: Path) -> None:
    rows = IMPRESSIONS.with_columns(pl.from_epoch("at", time_unit="s"))
    found = column(fit(tmp_path, rows, with_schema=schema(event_time={"column": "at", "kind": "ordinal"})), "at")
    assert found.remedy == "with `event_time: {column: at, kind: absolute}` in the schema it fits"
    require_fit([fit(tmp_path, rows, with_schema=applied("at", found.remedy))])


def test_seconds_that_would_be_days_of_1970_are_told(tmp_path: Path) -> None:
    found = column(fit(tmp_path, IMPRESSIONS, with_schema=schema(event_time={"column": "at", "unit": "ms"})), "at")
    assert found.problems == ("3 of 3 rows: probably seconds, expected milliseconds",)
    assert found.remedy == "with `event_time: {column: at, kind: absolute, unit: s}` in the schema it fits"


def test_times_of_no_known_year_are_as_the_schema_says(tmp_path: Path) -> None:
    require_fit([fit(tmp_path, IMPRESSIONS.with_columns(pl.lit(1000, dtype=pl.Int64).alias("at")))])


def test_a_line_that_helps_some_rows_tells_how_many_remain(tmp_path: Path) -> None:
    rows = IMPRESSIONS.with_columns(pl.Series("age", [None, float("inf"), 3.0]))
    found = column(fit(tmp_path, rows), "age")
    assert found.problems == (
        "1 of 3 rows: missing, expected a number, or `missing: mean` in the schema",
        "1 of 3 rows: not finite, expected a finite number as float32, also once normalised",
    )
    assert found.remedy == "with `missing: mean` in the schema 1 rows do not fit"


def test_a_column_that_no_line_helps_gets_none(tmp_path: Path) -> None:
    rows = IMPRESSIONS.with_columns(pl.Series("rate", [0.5, 1.5, None]))
    found = column(fit(tmp_path, rows), "rate")
    assert found.remedy == ""
    assert found.problems == (
        "1 of 3 rows: null, expected a number, > 0 and <= 1, and weight / rate finite as float32",
        "1 of 3 rows: out of bounds, expected > 0 and <= 1, and weight / rate finite as float32",
    )


@pytest.mark.parametrize("name", IMPRESSIONS.columns)
def test_a_missing_column_alone_does_not_fit(tmp_path: Path, name: str) -> None:
    found = fit(tmp_path, IMPRESSIONS.rename({name: "other"}))
    assert column(found, name).problems == (f"missing (in {tmp_path}/0.parquet)",)
    assert list(found.lines())[-1] == "  not in the schema: other"


@pytest.mark.parametrize("name", IMPRESSIONS.columns)
def test_a_column_of_a_wrong_type_alone_does_not_fit(tmp_path: Path, name: str) -> None:
    found = column(fit(tmp_path, IMPRESSIONS.with_columns(pl.lit(b"x").alias(name))), name)
    assert len(found.problems) == 1
    assert found.problems[0].endswith(f" (in {tmp_path}/0.parquet)")


def test_files_of_different_types_are_told(tmp_path: Path) -> None:
    found = column(fit(tmp_path, IMPRESSIONS, IMPRESSIONS.with_columns(pl.col("item").cast(pl.Int32))), "item")
    problem = "is Int32, but Int64 in files before; write it as one type"
    assert found.problems == (f"{problem} (in {tmp_path}/1.parquet)",)


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    found = fit(tmp_path, IMPRESSIONS.drop("age", "item"))
    with pytest.raises(DataError, match=r"^column 'age' of impressions in .*, 'item' of impressions in .* does not"):
        require_fit([found])


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("not Parquet, but long enough to be some")
    with pytest.raises(DataError, match=r"^impressions: .*/a\.parquet is damaged, or no Parquet file"):
        fit_impressions(str(tmp_path), schema())
    with pytest.raises(StorageError, match="no file is there"):
        fit_impressions(f"{tmp_path}/none", schema())


def fit_of_feedback(folder: Path, feedback: pl.DataFrame, *, impressions: pl.DataFrame = IMPRESSIONS) -> FilesFit:
    feedback.write_parquet(folder / "feedback")
    return fit_feedback(f"{folder}/feedback", schema(), impressions=fit(folder, impressions))


def test_feedback_needs_no_value(tmp_path: Path) -> None:
    require_fit([fit_of_feedback(tmp_path, FEEDBACK)])


def test_feedback_has_keys_of_the_type_that_impressions_have(tmp_path: Path) -> None:
    found = column(fit_of_feedback(tmp_path, FEEDBACK.with_columns(pl.col("id").cast(pl.String))), "id")
    assert found.problems == (f"is String, expected Int64 as in impressions; convert it (in {tmp_path}/feedback)",)


@pytest.mark.parametrize("factor", [1, 1000])
def test_a_line_for_feedback_is_told_only_if_impressions_need_it_too(tmp_path: Path, factor: int) -> None:
    in_ms = FEEDBACK.with_columns(pl.col("at") * 1000)
    found = fit_of_feedback(tmp_path, in_ms, impressions=IMPRESSIONS.with_columns(pl.col("at") * factor))
    assert bool(column(found, "at").remedy) == (factor == 1000)
