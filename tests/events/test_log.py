import re
import tempfile
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfm.artifact.manifest import Window
from exfm.errors import ConfigError, DataError, StorageError
from exfm.events.log import EventLogManifest, RawLog, read_names, write_event_log
from exfm.events.parquet import LogSource
from exfm.events.partitions import read_partition
from exfm.events.sources import load
from exfm.events.stage import ingest
from exfm.schema import UNITS_PER_S, EventTime, Schema

SCHEMA = Schema.parse(
    {
        "impression_key": "id",
        "event_time": {"column": "time_s"},
        "domain": "domain",
        "weight": "weight",
        "negative_sampling_rate": "rate",
        "dense": [{"name": "age", "net": "user"}],
        "sparse": [{"name": "item", "net": "item", "table": "item"}],
        "tables": [{"name": "item", "rows": 8, "dim": 4}],
        "labels": [{"name": "click", "feedback": "click", "attribution_window": 100, "truth": "truth"}],
    },
    source="test",
)


def impressions_at(times: list[int]) -> pl.DataFrame:
    columns = {"id": list(range(len(times))), "time_s": times, "item": [7] * len(times)}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Int64)).with_columns(
        pl.lit("a").alias("domain"),
        pl.lit(1.0).alias("weight"),
        pl.lit(0.5).alias("rate"),
        pl.lit(0.1).alias("truth"),
        pl.lit(30.0).alias("age"),
    )


def feedback_at(times: list[int], *, ids: list[int]) -> pl.DataFrame:
    columns = {"id": ids, "time_s": times}
    rows = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Int64))
    return rows.with_columns(pl.lit("click").alias("kind"), pl.lit(2.0).alias("value"))


def raw_log(impressions: pl.DataFrame, feedback: pl.DataFrame) -> RawLog:
    names = {
        "item": pl.DataFrame({"id": [7, 8], "name": ["Seven", "Eight"]}),
        "not_in_the_schema": pl.DataFrame({"id": [1], "name": ["One"]}),
    }
    return RawLog(impressions=impressions, feedback=feedback, source="a test", notes=("Not real.",), names=names)


IMPRESSIONS = impressions_at([1000, 1005, 1031])
FEEDBACK = feedback_at([1006, 1090], ids=[1, 0])


def refusal(
    folder: Path,
    *,
    impressions: pl.DataFrame = IMPRESSIONS,
    feedback: pl.DataFrame = FEEDBACK,
    schema: Schema = SCHEMA,
) -> str:
    with pytest.raises(DataError) as caught:
        write_event_log(raw_log(impressions, feedback), schema=schema, window_length=10, folder=folder)
    assert not list(folder.iterdir()), "something was written before the check"
    return str(caught.value)


def test_a_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = write_event_log(raw_log(IMPRESSIONS, FEEDBACK), schema=SCHEMA, window_length=1000, folder=tmp_path)
    manifest = EventLogManifest.read(tmp_path)
    assert manifest == written
    assert (manifest.source, manifest.notes) == ("a test", ("Not real.",))
    assert (manifest.num_impressions, manifest.num_feedback) == (3, 2)
    [window] = manifest.windows
    impressions = read_partition(tmp_path / "impressions", window)
    assert impressions.sort("id").equals(IMPRESSIONS.select(impressions.columns))
    assert read_partition(tmp_path / "feedback", window).equals(FEEDBACK.select("id", "time_s", "kind", "value"))
    assert read_names(tmp_path, manifest, "item") == {7: "Seven", 8: "Eight"}
    assert read_names(tmp_path, manifest, "user") == {}


def test_windows_follow_each_other_until_the_last_feedback(tmp_path: Path) -> None:
    manifest = write_event_log(raw_log(IMPRESSIONS, FEEDBACK), schema=SCHEMA, window_length=10, folder=tmp_path)
    assert [(window.start, window.end) for window in manifest.windows] == [(t, t + 10) for t in range(1000, 1100, 10)]
    impression_counts = [read_partition(tmp_path / "impressions", window).height for window in manifest.windows]
    feedback_counts = [read_partition(tmp_path / "feedback", window).height for window in manifest.windows]
    assert impression_counts == [2, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert feedback_counts == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_a_window_without_rows_has_the_columns_of_the_others(tmp_path: Path) -> None:
    manifest = write_event_log(raw_log(IMPRESSIONS, FEEDBACK.clear()), schema=SCHEMA, window_length=10, folder=tmp_path)
    empty = manifest.windows[1]
    assert (
        read_partition(tmp_path / "impressions", empty).schema
        == read_partition(tmp_path / "impressions", manifest.windows[0]).schema
    )
    assert read_partition(tmp_path / "feedback", empty).columns == ["id", "time_s", "kind", "value"]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    times=st.lists(st.integers(0, 500), min_size=1, max_size=30),
    delays=st.lists(st.integers(-50, 300), max_size=30),
    length=st.integers(10, 200),
)
def test_windows_hold_every_row_exactly_once(times: list[int], delays: list[int], length: int) -> None:
    orphans = feedback_at([250 + delay for delay in delays], ids=[-1 - i for i in range(len(delays))])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest = write_event_log(
            raw_log(impressions_at(times), orphans), schema=SCHEMA, window_length=length, folder=folder
        )
        for window in manifest.windows:
            assert (
                read_partition(folder / "impressions", window)["time_s"]
                .is_between(window.start, window.end, closed="left")
                .all()
            )
            arrived = read_partition(folder / "feedback", window)["time_s"]
            assert (arrived < window.end).all()
            assert window.index == 0 or (arrived >= window.start).all()
        impressions = pl.concat([read_partition(folder / "impressions", window) for window in manifest.windows])
        feedback = pl.concat([read_partition(folder / "feedback", window) for window in manifest.windows])
    assert impressions["id"].sort().to_list() == list(range(len(times)))
    assert impressions["time_s"].is_sorted()
    assert sorted(feedback["id"]) == sorted(orphans["id"])
    assert feedback["time_s"].is_sorted()


def test_feedback_without_a_value_counts_as_one(tmp_path: Path) -> None:
    log = raw_log(IMPRESSIONS, FEEDBACK.drop("value"))
    manifest = write_event_log(log, schema=SCHEMA, window_length=1000, folder=tmp_path)
    assert read_partition(tmp_path / "feedback", manifest.windows[0])["value"].to_list() == [1.0, 1.0]


def test_columns_that_the_schema_does_not_name_are_left_out(tmp_path: Path) -> None:
    log = raw_log(IMPRESSIONS.with_columns(pl.lit(1).alias("more")), FEEDBACK)
    manifest = write_event_log(log, schema=SCHEMA, window_length=1000, folder=tmp_path)
    assert "more" not in read_partition(tmp_path / "impressions", manifest.windows[0]).columns


@pytest.mark.parametrize("column", ["id", "time_s", "domain", "weight", "rate", "truth", "age", "item"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    assert f"impressions: column '{column}' is missing" in refusal(tmp_path, impressions=IMPRESSIONS.drop(column))


@pytest.mark.parametrize("column", ["id", "time_s", "domain", "weight", "rate", "truth"])
def test_a_null_is_refused_where_a_value_must_be(tmp_path: Path, column: str) -> None:
    is_first = pl.int_range(pl.len()) == 0
    holed = IMPRESSIONS.with_columns(pl.when(~is_first).then(column).alias(column))
    assert f"impressions: column '{column}' is null in 1 of 3 rows" in refusal(tmp_path, impressions=holed)


@pytest.mark.parametrize(
    ("column", "wrong", "expected"),
    [
        ("weight", 0.0, "expected > 0"),
        ("weight", float("nan"), "expected > 0"),
        ("weight", float("inf"), "expected > 0 and finite"),
        ("weight", 1e300, "expected > 0 and finite, as float32 too"),
        ("weight", 1e-50, "expected > 0 and finite, as float32 too"),
        ("rate", 1.5, "expected > 0 and <= 1"),
        ("rate", 0.0, "expected > 0 and <= 1"),
        ("rate", 1e-40, "expected > 0 and <= 1, and weight / rate finite as float32"),
        ("truth", -0.1, "expected a probability, 0 to 1"),
    ],
)
def test_a_number_out_of_bounds_is_refused(tmp_path: Path, column: str, wrong: float, expected: str) -> None:
    message = refusal(tmp_path, impressions=IMPRESSIONS.with_columns(pl.lit(wrong).alias(column)))
    assert f"column '{column}' is out of bounds in 3 of 3 rows (for example {wrong}, where id is 0)" in message
    assert expected in message


@pytest.mark.parametrize(
    ("column", "dtype", "found"),
    [
        ("id", pl.Float64, "column 'id' is Float64, expected Int64 or String"),
        (
            "time_s",
            pl.Float64,
            "column 'time_s' is Float64, expected Int64 (seconds since 1970-01-01 UTC) or a timestamp",
        ),
        ("domain", pl.Categorical, "column 'domain' is Categorical, expected String"),
        ("weight", pl.String, "column 'weight' is String, expected a number"),
        ("age", pl.String, "column 'age' is"),
        ("item", pl.String, "impressions: column 'item' has ids of type string, expected int64; convert them"),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path: Path, column: str, dtype: pl.DataType, found: str) -> None:
    assert found in refusal(tmp_path, impressions=IMPRESSIONS.with_columns(pl.col(column).cast(dtype)))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("id", "column 'id' is null in every row, expected Int64 or String; fill it"),
        ("domain", "column 'domain' is null in every row, expected String; fill it"),
        ("age", "column 'age' has no value in any row, and so no type; write it as a number, or leave the feature out"),
        ("item", "column 'item' has no value in any row, and so no type; write it as int64, or leave the feature out"),
    ],
)
def test_a_column_without_any_value_is_refused(tmp_path: Path, column: str, message: str) -> None:
    empty = IMPRESSIONS.with_columns(pl.lit(None).alias(column))
    assert refusal(tmp_path, impressions=empty).startswith(f"impressions: {message}")


@pytest.mark.parametrize(
    "users", [pl.Series([5, None, 5], dtype=pl.UInt32), pl.Series(["a", "b", None])], ids=["integer", "string"]
)
def test_a_log_keeps_the_column_that_tells_its_users(tmp_path: Path, users: pl.Series) -> None:
    impressions = IMPRESSIONS.with_columns(users.alias("who"))
    log, schema = raw_log(impressions, FEEDBACK), SCHEMA.model_copy(update={"user": "who"})
    [window] = write_event_log(log, schema=schema, window_length=1000, folder=tmp_path).windows
    assert read_partition(tmp_path / "impressions", window)["who"].to_list() == users.to_list()


def test_a_log_without_its_users_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, schema=SCHEMA.model_copy(update={"user": "who"}))
    assert message.startswith("impressions: column 'who' is missing; the columns are id, time_s, item, domain, weight")


@pytest.mark.parametrize(
    ("users", "found"),
    [([1.0, 2.0, 3.0], "Float64"), ([[1], [2], [3]], "List(Int64)"), ([None, None, None], "Null")],
)
def test_a_user_that_is_no_id_is_refused(tmp_path: Path, users: list[object], found: str) -> None:
    impressions = IMPRESSIONS.with_columns(pl.Series("who", users))
    message = refusal(tmp_path, impressions=impressions, schema=SCHEMA.model_copy(update={"user": "who"}))
    assert f"column 'who' is {found}, expected an integer or String (the user); convert it" in message


def test_a_repeated_impression_key_is_refused(tmp_path: Path) -> None:
    repeated = IMPRESSIONS.with_columns(pl.Series("id", [0, 4, 4]))
    assert "2 of 3 rows share their key with another (for example 4)" in refusal(tmp_path, impressions=repeated)


def test_a_log_without_impressions_is_refused(tmp_path: Path) -> None:
    assert "impressions: there are no rows" in refusal(tmp_path, impressions=IMPRESSIONS.clear())


def test_feedback_before_its_impression_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, feedback=feedback_at([1006, 1030], ids=[1, 2]))
    assert "1 of 2 rows are earlier than their impression (for example 'click' of impression 2 at 1030" in message


def test_feedback_with_another_key_type_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, feedback=FEEDBACK.with_columns(pl.col("id").cast(pl.String)))
    assert message == "feedback: column 'id' is String, expected Int64 as in impressions; convert it"


@pytest.mark.parametrize("column", ["id", "time_s", "kind"])
def test_feedback_without_a_needed_column_is_refused(tmp_path: Path, column: str) -> None:
    assert f"feedback: column '{column}' is missing" in refusal(tmp_path, feedback=FEEDBACK.drop(column))


def test_feedback_with_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, feedback=FEEDBACK.with_columns(pl.lit(float("nan")).alias("value")))
    assert (
        "feedback: column 'value' is out of bounds in 2 of 2 rows (for example nan, where id is 1), expected finite"
        in message
    )


def test_more_windows_than_allowed_are_refused(tmp_path: Path) -> None:
    in_milliseconds = feedback_at([1_006_000], ids=[1])
    message = refusal(tmp_path, feedback=in_milliseconds)
    assert message.startswith("100501 windows of 10 lie between the first impression (1000)")
    assert "at most 10000 are allowed" in message


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    twice = {"item": pl.DataFrame({"id": [7, 7], "name": ["Seven", "Sept"]})}
    log = RawLog(impressions=IMPRESSIONS, feedback=FEEDBACK, source="a test", notes=(), names=twice)
    with pytest.raises(DataError, match="1 ids are named more than once"):
        write_event_log(log, schema=SCHEMA, window_length=10, folder=tmp_path)


def test_a_window_has_a_length(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="window_length is 0; give at least 1"):
        write_event_log(raw_log(IMPRESSIONS, FEEDBACK), schema=SCHEMA, window_length=0, folder=tmp_path)


def test_a_folder_that_is_no_event_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"part-0.parquet is missing; run the stage that writes it"):
        read_partition(tmp_path / "impressions", Window(index=3, start=0, end=1))


def test_parquet_files_of_ones_own_become_a_log(tmp_path: Path) -> None:
    IMPRESSIONS.head(1).write_parquet(tmp_path / "impressions-0.parquet")
    IMPRESSIONS.tail(2).write_parquet(tmp_path / "impressions-1.parquet")
    FEEDBACK.write_parquet(tmp_path / "feedback.parquet")
    source = LogSource(impressions=f"{tmp_path}/impressions-*.parquet", feedback=f"{tmp_path}/feedback.parquet")
    log = load(source, schema=SCHEMA)
    assert log.impressions.equals(IMPRESSIONS)
    assert log.feedback.equals(FEEDBACK)


@pytest.mark.parametrize("files", ["none/impressions.parquet", "none-*.parquet", "empty", "none"])
def test_files_that_are_not_there_are_named(tmp_path: Path, files: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match=re.escape(f"{tmp_path}/{files}: no file is there; name a file, a folder")):
        load(LogSource(impressions=f"{tmp_path}/{files}", feedback=f"{tmp_path}/{files}"), schema=SCHEMA)


def refused_files(folder: Path, **files: pl.DataFrame | bytes) -> str:
    """Return why a folder's impressions are refused, all of which the log has, without the folder's name."""
    (folder / "log").mkdir()
    for name, content in files.items():
        path = folder / "log" / f"{name}.parquet"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.write_parquet(path)
    FEEDBACK.write_parquet(folder / "feedback.parquet")
    with pytest.raises(DataError) as caught:
        load(LogSource(impressions=f"{folder}/log", feedback=f"{folder}/feedback.parquet"), schema=SCHEMA)
    return str(caught.value).replace(f"{folder}/log/", "")


@pytest.mark.parametrize("content", [b"not Parquet, but long enough to be some", b"PAR1"])
@pytest.mark.parametrize("name", ["a", "c"])
def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    assert refused_files(tmp_path, b=IMPRESSIONS, **{name: content}) == (
        f"impressions: {name}.parquet is damaged, or no Parquet file; write it again, or name only the Parquet files, "
        "such as FOLDER/*.parquet"
    )


def test_another_file_among_parquet_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "notes.txt").write_text("not Parquet")
    IMPRESSIONS.write_parquet(tmp_path / "log" / "a.parquet")
    with pytest.raises(DataError, match=r"^impressions: .*/log/notes\.txt is damaged, or no Parquet file;"):
        load(LogSource(impressions=f"{tmp_path}/log", feedback=f"{tmp_path}/log"), schema=SCHEMA)


def test_files_that_do_not_agree_on_a_columns_type_are_named(tmp_path: Path) -> None:
    text = IMPRESSIONS.with_columns(pl.col("age").cast(pl.String))
    assert refused_files(tmp_path, a=IMPRESSIONS, b=text, c=IMPRESSIONS) == (
        "impressions: column 'age' is Float64 in a.parquet, but String in b.parquet; write it as one type to all files"
    )


@pytest.mark.parametrize("lacking", ["a", "b"])
def test_files_of_which_one_lacks_a_column_are_named(tmp_path: Path, lacking: str) -> None:
    having = "b" if lacking == "a" else "a"
    assert refused_files(tmp_path, **{lacking: IMPRESSIONS.drop("age"), having: IMPRESSIONS}) == (
        f"impressions: {having}.parquet has a column 'age', {lacking}.parquet has none; write it to all files"
    )


def test_a_damaged_page_is_told_with_its_files(tmp_path: Path) -> None:
    many = impressions_at(list(range(1000, 9000)))
    many.write_parquet(tmp_path / "whole.parquet")
    content = bytearray((tmp_path / "whole.parquet").read_bytes())
    content[4:2000] = bytes(1996)
    message = refused_files(tmp_path, a=bytes(content))
    assert message == f"impressions: {tmp_path}/log cannot be read; write the files again"


@pytest.mark.parametrize("extra", [0, 1])
def test_a_column_that_one_file_alone_has_is_left_out(tmp_path: Path, extra: int) -> None:
    for part, rows in enumerate((IMPRESSIONS.head(1), IMPRESSIONS.tail(2))):
        more = rows.with_columns(pl.lit(1).alias("more")) if part == extra else rows
        more.write_parquet(tmp_path / f"impressions-{part}.parquet")
    FEEDBACK.write_parquet(tmp_path / "feedback.parquet")
    source = LogSource(impressions=f"{tmp_path}/impressions-*.parquet", feedback=f"{tmp_path}/feedback.parquet")
    assert load(source, schema=SCHEMA).impressions.equals(IMPRESSIONS)


def test_values_that_only_later_feedback_files_have_are_not_left_out_unseen(tmp_path: Path) -> None:
    IMPRESSIONS.write_parquet(tmp_path / "impressions.parquet")
    FEEDBACK.head(1).drop("value").write_parquet(tmp_path / "feedback-0.parquet")
    FEEDBACK.tail(1).write_parquet(tmp_path / "feedback-1.parquet")
    source = LogSource(impressions=f"{tmp_path}/impressions.parquet", feedback=f"{tmp_path}/feedback-*.parquet")
    message = r"feedback: .*feedback-1\.parquet has a column 'value', .*feedback-0\.parquet has none; write it to all"
    with pytest.raises(DataError, match=message):
        load(source, schema=SCHEMA)


def test_a_missing_column_of_ones_own_files_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    IMPRESSIONS.rename({"age": "years"}).write_parquet(tmp_path / "impressions.parquet")
    FEEDBACK.write_parquet(tmp_path / "feedback.parquet")
    source = LogSource(impressions=f"{tmp_path}/impressions.parquet", feedback=f"{tmp_path}/feedback.parquet")
    with pytest.raises(
        DataError, match=r"impressions: column 'age' is missing in .*/impressions\.parquet; the columns are .*years"
    ):
        ingest(source, schema=SCHEMA, window_length=10, out=str(tmp_path / "events"))


@pytest.mark.parametrize("of", ["impressions", "feedback"])
def test_milliseconds_are_not_taken_for_seconds(tmp_path: Path, of: str) -> None:
    late = impressions_at([1_700_000_000_000]) if of == "impressions" else feedback_at([1_700_000_000_000], ids=[1])
    message = refusal(tmp_path, **{of: late})
    assert message.startswith(f"{of}: column 'time_s' is after the year 5138 in 1 of 1 rows (for example 1700000000000")
    assert "(milliseconds? set `unit: ms` of event_time)" in message


def test_a_time_before_1970_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, impressions=impressions_at([-5]))
    assert "'time_s' is before 1970 in 1 of 1 rows (for example -5, where id is 0), expected seconds since" in message


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_another_unit_become_whole_seconds(tmp_path: Path, unit: Literal["ms", "us", "ns"]) -> None:
    schema = SCHEMA.model_copy(update={"event_time": EventTime(column="time_s", unit=unit)})
    in_unit = (pl.col("time_s") * UNITS_PER_S[unit] + 999).alias("time_s")  # after the whole second
    log = raw_log(IMPRESSIONS.with_columns(in_unit), FEEDBACK.with_columns(in_unit))
    [window] = write_event_log(log, schema=schema, window_length=1000, folder=tmp_path).windows
    assert (window.start, window.end) == (1000, 2000)
    assert read_partition(tmp_path / "impressions", window)["time_s"].to_list() == [1000, 1005, 1031]
    assert read_partition(tmp_path / "feedback", window)["time_s"].to_list() == [1006, 1090]


def test_timestamps_become_whole_seconds(tmp_path: Path) -> None:
    stamp = pl.from_epoch("time_s", time_unit="s").alias("time_s")
    of_impressions = stamp.cast(pl.Datetime("ns")).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo")
    log = raw_log(IMPRESSIONS.with_columns(of_impressions), FEEDBACK.with_columns(stamp.cast(pl.Datetime("ms"))))
    [window] = write_event_log(log, schema=SCHEMA, window_length=1000, folder=tmp_path).windows
    assert read_partition(tmp_path / "impressions", window)["time_s"].to_list() == [1000, 1005, 1031]
    assert read_partition(tmp_path / "feedback", window)["time_s"].to_list() == [1006, 1090]


def test_ordinal_time_has_no_bounds(tmp_path: Path) -> None:
    schema = SCHEMA.model_copy(update={"event_time": EventTime(column="time_s", kind="ordinal")})
    log = raw_log(impressions_at([-5, 10**15]), FEEDBACK.clear())
    manifest = write_event_log(log, schema=schema, window_length=10**15, folder=tmp_path)
    assert len(manifest.windows) == 2


def test_a_features_value_that_training_would_refuse_is_named_with_its_impression(tmp_path: Path) -> None:
    holed = impressions_at(list(range(1000, 1100))).with_columns(
        pl.when(pl.col("id").is_in([77, 90])).then(None).otherwise(pl.col("age")).alias("age")
    )
    message = refusal(tmp_path, impressions=holed)
    assert message.startswith(
        "impressions: column 'age' is missing in 2 of 100 rows (for example None, where id is 77), expected a number, "
        "or `missing: mean` in the schema"
    )


def test_a_domain_that_no_impression_has_is_refused_with_those_there_are_and_nothing_is_left(tmp_path: Path) -> None:
    IMPRESSIONS.with_columns(pl.Series("domain", ["feed", "search", "feed"])).write_parquet(tmp_path / "shown.parquet")
    FEEDBACK.write_parquet(tmp_path / "feedback.parquet")
    source = LogSource(impressions=f"{tmp_path}/shown.parquet", feedback=f"{tmp_path}/feedback.parquet")
    out = str(tmp_path / "events")
    with pytest.raises(ConfigError) as caught:
        ingest(source, schema=SCHEMA, window_length=10, out=out, domains={"one": ["feed", "serch"], "two": ["video"]})
    assert str(caught.value) == (
        "vertical model 'one': no impression is of domain 'serch'; vertical model 'two': no impression is of domain "
        "'video'; the log's domains are feed, search: correct `domains` of the vertical model"
    )
    assert not (tmp_path / "events").exists()
    domains = {"one": ["feed", "search"], "two": ["search"], "all": []}
    assert ingest(source, schema=SCHEMA, window_length=10, out=out, domains=domains).num_impressions == 3


def test_of_many_domains_a_message_names_some(tmp_path: Path) -> None:
    many = impressions_at(list(range(1000, 1100))).with_columns(pl.col("id").cast(pl.String).alias("domain"))
    many.write_parquet(tmp_path / "shown.parquet")
    FEEDBACK.write_parquet(tmp_path / "feedback.parquet")
    source = LogSource(impressions=f"{tmp_path}/shown.parquet", feedback=f"{tmp_path}/feedback.parquet")
    with pytest.raises(ConfigError, match=r"the log's domains are 0, 1, 10, .* and 80 more: correct `domains`"):
        ingest(source, schema=SCHEMA, window_length=10, out=str(tmp_path / "events"), domains={"one": ["feed"]})
