"""A made-up log of days: a file of impressions and one of feedback for each, and the schema."""

from pathlib import Path

import numpy as np
import polars as pl

from exfm.das.log_tables import Das
from exfm.events.parquet import LogSource
from exfm.schema import Schema

DAY_S = 86_400
CLICK_WITHIN_S, DWELL_WITHIN_S, LONG = DAY_S // 4, DAY_S, 5.0
"""Attribution windows, and the value from which the last dwell makes a positive label."""

DAYS_AFTER = 2
"""Days after a window until its labels are known."""

_ID_STEP = 100_000_000
_DENSE, _SPARSE = [f"dense{i}" for i in range(4)], [f"sparse{i}" for i in range(8)]

SCHEMA = Schema.parse(
    {
        "impression_key": "id",
        "event_time": {"column": "time"},
        "domain": "domain",
        "dense": [{"name": name, "net": "user"} for name in _DENSE],
        "sparse": [{"name": name, "net": "item", "table": "table"} for name in _SPARSE],
        "tables": [{"name": "table", "rows": 100_000, "dim": 16}],
        "labels": [
            {"name": "click", "feedback": "click", "attribution_window": CLICK_WITHIN_S},
            {
                "name": "stay",
                "feedback": "dwell",
                "attribution_window": DWELL_WITHIN_S,
                "reduction": "last",
                "positive_from": LONG,
            },
        ],
    },
    source="the benchmark's schema",
)


def das_at(root: Path) -> Das:
    """Return the system under test, with windows of a day."""
    return Das(root=str(root), schema=SCHEMA, window_length=DAY_S)


def source_of(folder: Path) -> LogSource:
    """Return the log in a folder."""
    return LogSource(impressions=str(folder / "impressions"), feedback=str(folder / "feedback"))


def write_days(folder: Path, first: int, stop: int, *, rows: int, seed: int) -> None:
    """Write days [first, stop) of a log with so many impressions each."""
    for day in range(first, stop):
        feedback = pl.concat([_feedback(one, rows, seed) for one in (day - 1, day) if one >= 0])
        of_day = feedback.filter(pl.col("time") // DAY_S == day).sort("time")
        for part, frame in (("impressions", _impressions(day, rows, seed)), ("feedback", of_day)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            frame.write_parquet(folder / part / file_name(day))


def file_name(day: int) -> str:
    """Return the name of a day's files."""
    return f"day-{day:05d}.parquet"


def _impressions(day: int, rows: int, seed: int) -> pl.DataFrame:
    generator = np.random.default_rng([seed, day])
    features: dict[str, object] = {name: generator.random(rows, dtype=np.float32) for name in _DENSE}
    features |= {name: generator.integers(0, 10**6, rows) for name in _SPARSE}
    times = np.sort(day * DAY_S + generator.integers(0, DAY_S, rows))
    domains = generator.choice(["news", "shop", "video"], rows)
    return pl.DataFrame({"id": day * _ID_STEP + np.arange(rows), "time": times, "domain": domains} | features)


def _feedback(day: int, rows: int, seed: int) -> pl.DataFrame:
    """Return what comes of a day's impressions; some clicks are too late."""
    shown = _impressions(day, rows, seed)
    generator = np.random.default_rng([seed, day, 1])
    chosen = shown.filter(pl.Series(generator.random(rows) < 0.2)).select("id", "time")
    num = chosen.height
    return chosen.with_columns(
        pl.col("time") + pl.Series(generator.integers(1, DAY_S // 3, num)),
        pl.Series("kind", generator.choice(["click", "dwell"], num)),
        pl.Series("value", generator.random(num) * 2 * LONG),
    )
