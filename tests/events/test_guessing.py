"""A schema is guessed from the columns of a user's own files."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from dataset_files import write_files

from exfm.errors import DataError
from exfm.events import column_facts
from exfm.events.column_facts import kinds_in, read_facts
from exfm.events.datasets import NAMES
from exfm.events.datasets.conversion import convert
from exfm.events.datasets.dataset import data_set
from exfm.events.fitting import fit_feedback, fit_impressions, require_fit
from exfm.events.guessing import guess_schema
from exfm.events.schemas import FOLDER
from exfm.schema import Schema

START_S = 1_700_000_000
OWN = pl.DataFrame(
    {
        "request_id": [f"r{number}" for number in range(300)],
        "at": pl.from_epoch(pl.Series(range(START_S, START_S + 300))),
        "channel": ["search", "feed", "search"] * 100,
        "user_id": [number % 30 for number in range(300)],
        "seen": [[1, 2], [], None] * 100,
        "price": [0.5, 2.0, None] * 100,
        "item": [number % 50 for number in range(300)],
        "user-agent": ["x", "y", "z"] * 100,
        "version": ["1"] * 300,
        "clicked": [0, 1, 0] * 100,
        "clicks_after": [0, 2, 0] * 100,
    }
)


def guess(rows: pl.DataFrame, path: Path) -> str:
    """Return the schema of rows in a CSV or Parquet file."""
    form = "csv" if ".csv" in path.name else "parquet"
    rows.write_csv(path) if form == "csv" else rows.write_parquet(path)
    return guess_schema(read_facts(str(path), form=form), kinds={}, of=path.name)  # type: ignore[arg-type]


def test_each_role_is_found(tmp_path: Path) -> None:
    text = guess(OWN, tmp_path / "own.parquet")
    found = Schema.parse(yaml.safe_load(text), source="the guess")
    assert (found.impression_key, found.domain, found.user) == ("request_id", "channel", "user_id")
    assert (found.event_time.column, found.event_time.kind) == ("at", "absolute")
    assert [(one.name, one.missing) for one in found.dense] == [("price", "mean")]
    assert [(one.name, one.net, one.kind, one.id_type) for one in found.sparse] == [
        ("channel", "item", "single", "string"),
        ("user_id", "user", "single", "int64"),
        ("seen", "user", "sequence", "int64"),
        ("item", "item", "single", "int64"),
    ]
    assert [table.rows for table in found.tables] == [16, 64, 16, 128]
    assert [label.feedback for label in found.labels] == ["clicked"]


def test_columns_that_are_no_features_are_left_out(tmp_path: Path) -> None:
    odd = OWN.with_columns(
        day=pl.lit("2024-01-01").str.to_date(),
        pair=pl.struct("item", "price"),
        embedding=pl.concat_list("price", "price"),
        fixed=pl.concat_list("item", "item").list.to_array(2),
        score=pl.Series([1.0, float("inf"), 3.0] * 100),
        event_time=pl.col("at").dt.epoch("s"),
        candidate_id=pl.int_range(1, 301),
        is_like=pl.Series([0, 1, 1] * 100),
    )
    odd.write_parquet(tmp_path / "own.parquet")
    text = guess_schema(read_facts(f"{tmp_path}/own.parquet", form="parquet"), kinds={"click": 1}, of="own.parquet")
    for line in (
        "# left out: 'day': a feature is a number, an id, or a list of ids\n",
        "# left out: 'pair': a feature is a number, an id, or a list of ids\n",
        "# left out: 'fixed': a feature is a number, an id, or a list of ids\n",
        "# left out: 'event_time': a feature is a number, an id, or a list of ids\n",
        "# left out: 'embedding': the items of a list must be ids\n",
        "# left out: 'is_like': by its name it may be known only after the impression\n",
        "normalisation: {mean: 2, std: 1}}  # 1 to 3; 3 distinct\n",
        "{name: candidate_id, net: item, table: candidate_id}  # 300 distinct\n",
    ):
        assert line in text


def test_counts_and_reasons_are_comments(tmp_path: Path) -> None:
    text = guess(OWN, tmp_path / "own.parquet")
    assert text.startswith("# Guessed by `exfm ingest --guess` from own.parquet: 300 rows.")
    for line in (
        "table: item}  # 50 distinct\n",
        "# 0.5 to 2; 2 distinct, 33.3% missing\n",
        "# 0.3333 are 1\n",
        "# left out: 'user-agent': a feature's name has letters, digits and underscores only\n",
        "# left out: 'version': it is the same in each row\n",
        "# left out: 'clicks_after': by its name it may be known only after the impression\n",
    ):
        assert line in text


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_a_csv_file_is_guessed_like_parquet(separator: str, tmp_path: Path) -> None:
    rows = OWN.with_columns(
        pl.col("at").dt.epoch("ms"), pl.col("seen").list.eval(pl.element().cast(pl.String)).list.join("^")
    )
    rows.write_csv(tmp_path / "own.csv", separator=separator)
    text = guess_schema(read_facts(str(tmp_path / "own.csv"), form="csv"), kinds={}, of="own.csv")
    assert "event_time: {column: at" not in text, "a number without a name of a time is no time"
    renamed = guess(rows.rename({"at": "timestamp"}), tmp_path / "renamed.csv")
    assert "event_time: {column: timestamp, kind: absolute, unit: ms}" in renamed
    assert "{name: seen, net: user, kind: sequence, id_type: string, table: seen, max_length: 2}" in text
    assert "{name: price, net: item" in text


def test_what_no_column_has_is_said(tmp_path: Path) -> None:
    text = guess(OWN.select("item", "price"), tmp_path / "own.csv")
    assert "impression_key: impression_id  # no column has keys: add this one" in text
    assert "event_time: {column: event_time, kind: ordinal}  # no column has times: add it" in text
    assert "domain: domain  # no column has domains: add this one" in text
    assert "{name: click, feedback: click, attribution_window: 0}  # no column has 0 and 1: name your feedback" in text
    with pytest.raises(DataError, match=r"own\.csv: no column has ids"):
        guess(OWN.select("price"), tmp_path / "own.csv")


def test_kinds_of_feedback_become_labels(tmp_path: Path) -> None:
    OWN.drop("clicked").write_parquet(tmp_path / "impressions.parquet")
    pl.DataFrame({"kind": ["buy", "click", "click", "add-cart"]}).write_parquet(tmp_path / "feedback.parquet")
    kinds = kinds_in(str(tmp_path / "feedback.parquet"))
    text = guess_schema(read_facts(str(tmp_path / "impressions.parquet"), form="parquet"), kinds=kinds, of="own")
    labels = Schema.parse(yaml.safe_load(text), source="the guess").labels
    assert labels[0].name == "click"
    assert {(label.name, label.feedback) for label in labels[1:]} == {("buy", "buy"), ("add_cart", "add-cart")}
    with pytest.raises(DataError, match="column 'kind' is missing; the columns are request_id"):
        kinds_in(str(tmp_path / "impressions.parquet"))


def test_many_distinct_values_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_facts, "SLICE_ROWS", 10_000)
    ids = np.random.default_rng(0).integers(0, 30_000, 100_000)
    pl.DataFrame({"item": ids}).write_parquet(tmp_path / "own.parquet")
    [facts] = read_facts(str(tmp_path / "own.parquet"), form="parquet")
    assert not facts.is_exact
    assert facts.num_distinct == pytest.approx(len(np.unique(ids)), rel=0.06)
    assert facts.num_rows == 100_000


@pytest.mark.parametrize("name", NAMES)
def test_the_logs_of_data_sets_fit_their_guesses(name: str, tmp_path: Path) -> None:
    write_files(name, tmp_path / name, num_rows=300)
    convert(data_set(name), str(tmp_path / name), str(tmp_path / "out"), schema=(FOLDER / f"{name}.yaml").read_bytes())
    impressions, feedback = (f"{tmp_path}/out/{part}.parquet" for part in ("impressions", "feedback"))
    text = guess_schema(read_facts(impressions, form="parquet"), kinds=kinds_in(feedback), of=name)
    guessed = Schema.parse(yaml.safe_load(text), source="the guess")
    shown = fit_impressions(impressions, guessed)
    require_fit([shown, fit_feedback(feedback, guessed, impressions=shown)])


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"own\.csv: there are no rows"):
        read_facts(str(tmp_path / "own.csv"), form="csv")
    (tmp_path / "own.parquet").write_text("a,b\n")
    with pytest.raises(DataError, match=r"own\.parquet is damaged, or no Parquet file"):
        read_facts(str(tmp_path / "own.parquet"), form="parquet")
