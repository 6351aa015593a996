"""The page that says what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exfm.planning.sizes import bytes_text
from exfm_bench.das.config import DasBenchConfig
from exfm_bench.das.measuring import DUCKDB, INGEST, JOIN, POLARS, SYSTEM, Log, Measured, Taken
from exfm_bench.ratios import Interval, at_most, median_of, ratio_of
from exfm_bench.table import Table

JOINED, SCORED, DAY, FLAT = 1.5, 1.2, 1.5, 1.05
"""Targets: labels and join over a bare join, scoring over encode and forward, a day more over its share of the replay,
and the peak of memory of a long log over that of a short one, at most."""
COMMITS_S = 0.3
"""Target: the commits of a window's labels and examples, at most."""


@dataclass(frozen=True)
class Findings:
    """Where and how it was measured, and what came out."""

    facts: Mapping[str, str]
    config: DasBenchConfig
    measured: Measured

    def to_dict(self) -> dict[str, Any]:
        """Return the raw numbers, as JSON can hold them."""
        return {"facts": dict(self.facts), "config": self.config.to_dict(), "measured": self.measured.to_dict()}


def page(findings: Findings) -> str:
    """Return the page in Markdown."""
    measured = findings.measured
    sections = ["# The data augmentation system beside bare joins", _how(findings)]
    sections += [
        "## Targets",
        targets_table(measured).markdown(),
        "## Labels and join",
        joins_table(measured).markdown(),
    ]
    sections += ["## Logs that grow", logs_table(measured).markdown()]
    return "\n\n".join(sections) + "\n"


def targets_table(measured: Measured) -> Table:
    """Return every target, and whether it was met."""
    ours, bare = measured.joins[SYSTEM], measured.joins[POLARS]
    few, many = measured.few, measured.many
    commits = median_of([[_median(turn.found["commits_s"]) for turn in ours]])
    rows = [
        _row(
            "labels and join, over a bare polars join",
            JOINED,
            _join_ratio(ours, bare),
            _join_ratio(ours, bare, cpu=True),
        ),
        (
            "commits of a window's labels and examples, s",
            f"{COMMITS_S:g}",
            str(commits),
            "",
            at_most(commits, COMMITS_S),
        ),
        _row(
            "scoring, over encode and forward",
            SCORED,
            *(
                ratio_of(
                    [[turn[f"system_{unit}"] for turn in measured.scores]],
                    [[turn[f"bare_{unit}"] for turn in measured.scores]],
                )
                for unit in ("s", "cpu_s")
            ),
        ),
        _row(f"a day more, over 1/{many.num_windows} of the replay", DAY, _day_ratio(many), _day_ratio(many, cpu=True)),
    ]
    for name in (INGEST, JOIN):
        ratio = many.replay[name].peak_bytes / few.replay[name].peak_bytes
        what = f"peak memory of {name}, {many.num_windows} windows over {few.num_windows}"
        rows.append((what, f"{FLAT:g}", f"{ratio:.3f}", "", "met" if ratio <= FLAT else "not met"))
    return Table(("what", "at most", "time, ratio or s", "CPU time, ratio", "target"), rows)


def joins_table(measured: Measured) -> Table:
    """Return labels and join of the same rows in all ways."""
    bare = measured.joins[POLARS]
    rows = []
    for name in (SYSTEM, POLARS, DUCKDB):
        if name in measured.joins:
            turns = measured.joins[name]
            times = median_of([[_without_commits(turn) for turn in turns]])
            cpu = median_of([[_without_commits(turn, cpu=True) for turn in turns]])
            ratios = [str(_join_ratio(turns, bare, cpu=cpu)) if name != POLARS else "1" for cpu in (False, True)]
            peak = bytes_text(max(turn.peak_bytes for turn in turns))
            rows.append((name, str(times), str(cpu), *ratios, peak))
    return Table(("by", "time, s", "CPU time, s", "time / polars'", "CPU time / polars'", "peak memory"), rows)


def logs_table(measured: Measured) -> Table:
    """Return what each stage of a replay took, and a run after it."""
    rows = []
    for log in (measured.few, measured.many):
        works = {**log.replay, **({"a run with nothing due": log.idle} if log.idle else {})}
        for name, one in works.items():
            times = (f"{value:.2f}" for value in (one.seconds, one.cpu_s, one.process_s))
            rows.append((str(log.num_windows), name, *times, bytes_text(one.peak_bytes)))
        for what, name in (("idle", "nothing due, no start-up"), ("day", "a day more, no start-up")):
            if log.days:
                times = (str(median_of([[day[f"{what}_{unit}"] for day in log.days]])) for unit in ("s", "cpu_s"))
                rows.append((str(log.num_windows), name, *times, "", ""))
    heads = ("windows", "work", "time, s", "CPU time, s", "time with start-up, s", "peak memory")
    return Table(heads, rows, num_words=2)


def _row(what: str, most: float, time: Interval, cpu: Interval) -> tuple[str, ...]:
    return (what, f"{most:g}", str(time), str(cpu), at_most(time, most))


def _median(values: Sequence[float]) -> float:
    return median_of([values]).value


def _without_commits(turn: Taken, *, cpu: bool = False) -> float:
    """Return the time of labels and join; bare joins commit nothing."""
    if cpu:
        return turn.cpu_s - float(turn.found.get("commits_cpu_s", 0))
    return turn.seconds - float(sum(turn.found.get("commits_s", ())))


def _join_ratio(turns: Sequence[Taken], bare: Sequence[Taken], *, cpu: bool = False) -> Interval:
    return ratio_of(
        [[_without_commits(turn, cpu=cpu) for turn in turns]], [[_without_commits(one, cpu=cpu) for one in bare]]
    )


def _day_ratio(log: Log, *, cpu: bool = False) -> Interval:
    """Return a day more, without what a run with nothing due takes, over a window's share of the replay."""
    whole = sum(work.cpu_s if cpu else work.seconds for work in log.replay.values())
    unit = "cpu_s" if cpu else "s"
    days = [day[f"day_{unit}"] - day[f"idle_{unit}"] for day in log.days]
    return median_of([[day * log.num_windows / whole for day in days]])


def _how(findings: Findings) -> str:
    config = findings.config
    facts = "\n".join(f"- {name}: {fact}" for name, fact in findings.facts.items())
    missing = "" if config.duckdb else "\n- DuckDB: left out, as duckdb names no environment"
    return (
        f"{facts}{missing}\n\n"
        "A made-up log has windows of a day, 12 features and 2 labels; a fifth of the impressions have feedback. "
        f"Labels and join are of {config.join_windows} windows of {config.join_rows:,} impressions. There are "
        f"{config.turns} turns. In each, all ways come once, in an order drawn anew, each in a process of its own that "
        "reads files and writes Parquet. Figures are medians over turns with 95 % intervals, ratios are of the same "
        "turn. The time of commits is apart. A bare join knows no duplicates, late rows or order of rows, and writes "
        f"one file, exfm two. Scoring reads, encodes and scores {config.join_rows:,} impressions and writes "
        "pseudo-labels, in turn with encode and forward of the same rows in memory, by one thread of torch. A log that "
        f"grows has {config.rows:,} impressions a window; a day more is without what a run with nothing due takes. "
        "*met*: all of the interval is on the right side; *not resolved*: a part of it is."
    )
