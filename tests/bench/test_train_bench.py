"""Trainers take turns over the same examples, and the page says what was measured and what is missing."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from exfm.errors import ConfigError, StageError
from exfm_bench.training.bench import NUMBERS, PAGE, bench_training
from exfm_bench.training.config import Peers, TrainBenchConfig
from exfm_bench.training.examples import PEERS_FILE, TASK, exfm_file, feature_names, windows_of, write_examples
from exfm_bench.training.measuring import Growth, Measured, Series, measure
from exfm_bench.training.page import Findings, page, targets_table, trainers_table
from exfm_bench.training.trainers import (
    EXFM,
    FROM_MEMORY,
    FUXICTR,
    SAME,
    TESTED,
    TORCHREC,
    Trainer,
    Turn,
    our_trainers,
    peer_trainers,
    running,
)

TINY = TrainBenchConfig(num_tables=4, rows=100, dims=(8,), batch_size=16, batches=2, windows=3, turns=6)


def trainer(name: str, program: str = "") -> Trainer:
    """Return a trainer whose process runs a few words of Python."""
    return Trainer(name, "1.0", (sys.executable, "-c", program), settings=({"threads": 1, "workers": 0},))


def series(name: str, seconds: float) -> Series:
    """Return nine turns of a trainer, each a little slower than the one before."""
    turns = tuple(Turn(1000, seconds * (1 + 0.001 * turn), seconds, peak_bytes=2**30) for turn in range(9))
    return Series(trainer(name), {"threads": 2, "workers": 1}, turns)


def measured(*, fuxictr_s: float = 6.0, torchrec_s: float = 1.1, growth: float = 1.0, memory: float = 1.0) -> Measured:
    """Return made-up turns in which exfm takes a second."""
    ours = [series(name, 1.0) for name in (EXFM, SAME, FROM_MEMORY, TESTED)]
    few = series(EXFM, 1.0).turns
    many = tuple(replace(turn, peak_bytes=int(memory * 2**30)) for turn in series(EXFM, growth).turns)
    return Measured(
        dim=16,
        series=(*ours, series(FUXICTR, fuxictr_s), series(TORCHREC, torchrec_s)),
        missing=(),
        growth=Growth(times=4, first=few[0], few=few, many=many),
    )


def verdicts(found: Measured) -> list[str]:
    return [row[-1] for row in targets_table([found]).rows]


def test_all_trainers_get_the_same_examples(tmp_path: Path) -> None:
    write_examples(TINY, tmp_path)
    ours = pl.concat([pl.read_parquet(exfm_file(tmp_path, window)) for window in windows_of(TINY)])
    theirs = np.load(tmp_path / PEERS_FILE)
    assert ours.height == TINY.num_examples == 96
    for name in feature_names(TINY):
        np.testing.assert_array_equal(ours[name].to_numpy(), theirs[name])
    np.testing.assert_array_equal(ours[f"label.{TASK}"].to_numpy(), theirs[TASK])
    assert ours["impression_id"].n_unique() == TINY.num_examples


def test_targets_are_met_by_the_whole_interval_only() -> None:
    assert verdicts(measured()) == ["met"] * 4
    assert verdicts(measured(fuxictr_s=4.9)) == ["not met", "met", "met", "met"]
    assert verdicts(measured(torchrec_s=0.9)) == ["met", "not met", "met", "met"]
    assert verdicts(measured(growth=1.2, memory=1.5)) == ["met", "met", "not met", "not met"]


def test_a_ratio_is_that_of_the_same_turn() -> None:
    rows = {row[0]: row for row in trainers_table(measured()).rows}
    assert rows[EXFM][5] == "1"
    assert rows[FUXICTR][5] == "6.000 [6.000, 6.000]"
    assert rows[FUXICTR][2] == "2 threads, 1 to read"
    assert rows[FUXICTR][-1] == "1,024.0 MiB"


def test_without_peers_the_page_says_which_are_missing_and_how_they_are_named() -> None:
    found, missing = peer_trainers(TINY)
    assert found == []
    text = page(Findings(facts={}, config=TINY, missing=tuple(missing)))
    assert "FuxiCTR: left out, as peers.fuxictr names no environment" in text
    assert "torchrec: left out, as peers.torchrec names no environment" in text


@pytest.mark.parametrize(("name", "package"), [("fuxictr", "fuxictr"), ("torchrec", "torchrec")])
def test_an_environment_without_a_peer_is_refused_with_how_to_make_one(name: str, package: str, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"peers": Peers(**{name: str(tmp_path)})})
    with pytest.raises(ConfigError, match=rf"no virtual environment with {package}; make one: python -m venv"):
        peer_trainers(config)


def test_an_environment_on_the_command_line_replaces_that_of_the_settings() -> None:
    config = TINY.with_peers(fuxictr="a", torchrec="b").with_peers(fuxictr="c", torchrec="")
    assert (config.peers.fuxictr, config.peers.torchrec) == ("c", "b")


@pytest.mark.parametrize(
    ("network", "found"),
    [({"interaction": "dlrm"}, "interaction dlrm and 2 top layers"), ({"top_units": []}, "dcnv2 and 0 top layers")],
)
def test_a_network_that_other_trainers_do_not_have_is_refused(network: dict[str, object], found: str) -> None:
    with pytest.raises(ConfigError, match=f"{found}, but all trainers learn DCNv2"):
        TrainBenchConfig.parse({"network": network}, source="train.yaml")


def test_a_trainer_that_ends_is_named_with_its_last_lines(tmp_path: Path) -> None:
    with (
        pytest.raises(StageError, match=r"(?s)FuxiCTR ended with exit code 1; its last lines:.*no such layer"),
        running(trainer(FUXICTR, "raise SystemExit('no such layer')"), TINY, tmp_path, dim=8),
    ):
        pass


@pytest.mark.slow
def test_a_peer_that_does_not_start_is_missing_and_the_others_are_measured(tmp_path: Path) -> None:
    write_examples(TINY, tmp_path)
    said: list[str] = []
    ours = [one for one in our_trainers() if one.name in (EXFM, FROM_MEMORY)]
    ours = [replace(one, settings=one.settings[:1]) for one in ours]
    peer = trainer(TORCHREC, "raise SystemExit('no fbgemm')")
    before, found = measure(TINY, [*ours, peer], tmp_path, dim=8, say=said.append)
    assert before == replace(found, growth=None)
    assert found.growth is not None
    assert [one.trainer.name for one in found.series] == [EXFM, FROM_MEMORY]
    assert found.missing == ("torchrec: no fbgemm",)
    for one in found.series:
        assert [turn.num_examples for turn in one.turns] == [96] * 6
    assert [turn.num_examples for turn in found.growth.many] == [TINY.growth * 96] * 6


@pytest.mark.slow
def test_a_run_leaves_the_page_and_the_raw_numbers(tmp_path: Path) -> None:
    with (tmp_path / "printed").open("w", encoding="utf-8") as printed:
        bench_training(Console(width=240, file=printed), TINY, out=tmp_path / "out")
    numbers = json.loads((tmp_path / "out" / NUMBERS).read_text(encoding="utf-8"))
    assert [one["trainer"]["name"] for one in numbers["measured"][0]["series"]] == [EXFM, SAME, FROM_MEMORY, TESTED]
    assert all(turn["seconds"] > 0 for one in numbers["measured"][0]["series"] for turn in one["turns"])
    text = (tmp_path / "out" / PAGE).read_text(encoding="utf-8")
    assert "## 8 numbers a row" in text
    assert "FuxiCTR: left out" in text
    assert "FuxiCTR: left out" in (tmp_path / "printed").read_text(encoding="utf-8")
