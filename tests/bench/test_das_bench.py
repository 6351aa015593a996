"""The system and bare joins take turns over the same rows, and the page says what was measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from exfm.errors import ConfigError, StageError
from exfm_bench.das.bench import NUMBERS, PAGE, bench_das
from exfm_bench.das.config import DasBenchConfig
from exfm_bench.das.measuring import INGEST, JOIN, POLARS, REST, SYSTEM, Log, Measured, Taken, require_duckdb, run
from exfm_bench.das.page import targets_table

TINY = DasBenchConfig(turns=2, join_rows=500, join_windows=2, rows=100, few=1, many=2)


def taken(seconds: float, found: object = None, *, peak_bytes: int = 2**30) -> Taken:
    return Taken(seconds=seconds, cpu_s=seconds, peak_bytes=peak_bytes, process_s=seconds + 1, found=found)


def measured(*, join_s: float = 1.0, commit_s: float = 0.1, score_s: float = 1.0, day_s: float = 1.0) -> Measured:
    """Return six made-up turns beside bare work of a second, and a long log whose windows take a second each."""
    found = {"counts": {}, "commits_s": [commit_s, commit_s], "commits_cpu_s": 2 * commit_s}
    score = {"system_s": score_s, "system_cpu_s": score_s, "bare_s": 1.0, "bare_cpu_s": 1.0}
    day = {"day_s": 0.5 + day_s, "day_cpu_s": 0.5 + day_s, "idle_s": 0.5, "idle_cpu_s": 0.5}
    return Measured(
        joins={SYSTEM: (taken(join_s + 2 * commit_s, found),) * 6, POLARS: (taken(1.0, {}),) * 6},
        scores=(score,) * 6,
        few=Log(10, {INGEST: taken(4), JOIN: taken(4)}),
        many=Log(100, {INGEST: taken(40), JOIN: taken(40), REST: taken(20)}, taken(0.5), (day,) * 6),
    )


def verdicts(found: Measured) -> list[str]:
    return [row[-1] for row in targets_table(found).rows]


def test_each_target_is_judged_by_its_own_figure() -> None:
    assert verdicts(measured()) == ["met"] * 6
    assert verdicts(measured(join_s=1.6)) == ["not met", *["met"] * 5]
    assert verdicts(measured(commit_s=0.4)) == ["met", "not met", *["met"] * 4]
    assert verdicts(measured(score_s=1.3)) == [*["met"] * 2, "not met", *["met"] * 3]
    assert verdicts(measured(day_s=1.6)) == [*["met"] * 3, "not met", *["met"] * 2]
    grown = replace(measured(), few=Log(10, {INGEST: taken(4, peak_bytes=2**29), JOIN: taken(4)}))
    assert verdicts(grown) == [*["met"] * 4, "not met", "met"]


def test_an_environment_without_duckdb_is_refused_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no virtual environment with duckdb; make one: python -m venv"):
        require_duckdb(str(tmp_path))


def test_few_windows_are_fewer_than_many() -> None:
    with pytest.raises(ConfigError, match="few is 100 and many is 100 windows; set many above few"):
        DasBenchConfig.parse({"few": 100}, source="das.yaml")


@pytest.mark.slow
def test_work_that_fails_is_named_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"(?s)ended with exit code 1; its last lines:.*KeyError"):
        run({"work": "ingest"}, tmp_path / "job.json")


@pytest.mark.slow
def test_a_run_leaves_the_page_and_the_raw_numbers(tmp_path: Path) -> None:
    with (tmp_path / "printed").open("w", encoding="utf-8") as printed:
        bench_das(Console(width=240, file=printed), TINY, out=tmp_path / "out")
    numbers = json.loads((tmp_path / "out" / NUMBERS).read_text(encoding="utf-8"))["measured"]
    assert {name: len(turns) for name, turns in numbers["joins"].items()} == {SYSTEM: 2, POLARS: 2}
    counts = numbers["joins"][SYSTEM][0]["found"]["counts"]
    assert counts == numbers["joins"][POLARS][0]["found"]
    assert counts["num_rows"] == 1000
    assert 0 < counts["stay"] < counts["click"] < 200
    assert [day["num_windows"] for day in numbers["many"]["days"]] == [3, 4]
    text = (tmp_path / "out" / PAGE).read_text(encoding="utf-8")
    assert "DuckDB: left out" in text
    assert "a day more, no start-up" in text
