"""`exfm ingest NAME`, `csv` and `parquet`, as a user types them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_files import write_files

from exfm.cli.main import main
from exfm.events.datasets import NAMES
from exfm.schema import Schema

Outcome = tuple[int, str, str]
"""Exit code, stdout and stderr of a command."""


@pytest.fixture
def ingest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["exfm", "ingest", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


def test_each_data_set_has_a_command(ingest: Callable[..., Outcome]) -> None:
    code, out, _ = ingest("--help")
    assert code == 0
    assert [name for name in NAMES if f" {name} " not in out] == []


def test_a_data_set_becomes_a_log_and_its_notes_are_printed(ingest: Callable[..., Outcome], tmp_path: Path) -> None:
    write_files("criteo_kaggle", tmp_path / "dac")
    code, out, err = ingest("criteo_kaggle", tmp_path / "dac", "--out", tmp_path / "log")
    assert (code, err) == (0, "")
    assert out.startswith("Criteo's Kaggle challenge, train.txt: 200 impressions, feedback: ")
    assert "event time is the number of a row" in out
    assert "read by exfm run -c examples/criteo_kaggle/run.yaml" in out
    code, out, _ = ingest(
        "check", tmp_path / "log/impressions.parquet", "--feedback", tmp_path / "log/feedback.parquet",
        "--schema", tmp_path / "log/schema.yaml",
    )  # fmt: skip
    assert code == 0
    code, out, _ = ingest("criteo_kaggle", tmp_path / "dac", "--out", tmp_path / "log", "--mean-delay", "9")
    assert (code, "exponential, mean 9 rows, seed 0" in out) == (0, True), "the log is replaced"


def test_a_mistake_is_one_line(ingest: Callable[..., Outcome], tmp_path: Path) -> None:
    code, out, err = ingest("avazu", tmp_path, "--out", tmp_path / "log")
    assert (code, out) == (2, "")
    assert err == (
        f"exfm: {tmp_path}: train.csv is missing; looked for train.csv, train.csv.gz, train.csv.bz2; found nothing; "
        "name the folder that holds the data set\n"
    )


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_schema_is_guessed(form: str, ingest: Callable[..., Outcome], tmp_path: Path) -> None:
    write_files("kuaivideo_x1", tmp_path / "kuai")
    ingest("kuaivideo_x1", tmp_path / "kuai", "--out", tmp_path / "log")
    more = ["--feedback", tmp_path / "log" / "feedback.parquet"] if form == "parquet" else []
    source = tmp_path / "kuai" / "train.csv" if form == "csv" else tmp_path / "log" / "impressions.parquet"
    guess = tmp_path / "new" / "schema.yaml"
    assert ingest(form, source, "--guess", guess, *more) == (
        0,
        f"{guess}: a guess; read each line, and correct it\n",
        "",
    )
    kinds = {label.feedback.removeprefix("is_") for label in Schema.read(guess).labels}
    assert kinds == {"click", "like", "follow"}
