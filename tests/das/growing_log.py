"""A log of ten days that grows by a file a day, with every fault that a log may have."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

from exfm.das.config import DasConfig
from exfm.das.log_tables import Das
from exfm.events.parquet import LogSource
from exfm.schema import Schema
from exfm.tables.table import OnStep

DAY_S = 86_400
SCHEMA = Schema.parse(
    {
        "impression_key": "id",
        "event_time": {"column": "time"},
        "domain": "domain",
        "sparse": [{"name": "item", "net": "item", "table": "item"}],
        "tables": [{"name": "item", "rows": 64, "dim": 4}],
        "labels": [
            {"name": "click", "feedback": "click", "attribution_window": DAY_S // 4},
            {
                "name": "stay",
                "feedback": "dwell",
                "attribution_window": DAY_S,
                "reduction": "last",
                "positive_from": 5.0,
            },
        ],
    },
    source="the test's schema",
)


@dataclass(frozen=True)
class GrowingLog:
    """Files of impressions and feedback, of which `arrive` gives one day after the other."""

    folder: Path
    days: int = 10
    rows_a_day: int = 60

    @property
    def source(self) -> LogSource:
        """Return the source."""
        return LogSource(impressions=str(self.folder / "impressions"), feedback=str(self.folder / "feedback"))

    def arrive(self, day: int) -> None:
        """Write the files of one day."""
        for part, rows in zip(("impressions", "feedback"), self._rows(day), strict=True):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
            rows.write_parquet(self.folder / part / f"day-{day:02d}.parquet")

    def arrive_all(self) -> None:
        """Write the files of all days."""
        for day in range(self.days):
            self.arrive(day)

    def _rows(self, day: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        rng, shown = np.random.default_rng(1_000 + day), self._impressions(day)
        ids, times = shown["id"], shown["time"]
        extra = [shown.head(3)]  # repeated at once
        if day >= 1:
            before = (day - 1) * DAY_S + DAY_S - 60  # yesterday's last minute: in time
            extra.append(shown.tail(2).with_columns(pl.col("id") + 500, pl.lit(before, dtype=pl.Int64).alias("time")))
        if day >= 3:  # closed since
            extra.append(
                shown.tail(2).with_columns(
                    pl.col("id") + 600, pl.lit((day - 3) * DAY_S + 5, dtype=pl.Int64).alias("time")
                )
            )
        extra.append(shown.tail(1).with_columns(pl.col("id") + 700, pl.lit(None, dtype=pl.String).alias("domain")))
        impressions = pl.concat([shown, *extra])

        clicked = shown.filter(pl.col("item") < 20)
        delays = rng.integers(0, DAY_S // 3, clicked.height)  # some expire
        clicks = clicked.select(
            "id", (pl.col("time") + delays).alias("time"), pl.lit("click").alias("kind"), pl.lit(1.0).alias("value")
        )
        dwelt = shown.filter(pl.col("item") >= 10)
        dwells = pl.concat(
            dwelt.select(
                "id",
                (pl.col("time") + rng.integers(1, DAY_S, dwelt.height)).alias("time"),
                pl.lit("dwell").alias("kind"),
                pl.lit(float(value)).alias("value"),
            )
            for value in (2, 7)
        )
        odd = pl.DataFrame(
            {
                "id": [-1 - day, int(ids[0]), int(ids[1])],
                "time": [day * DAY_S, int(times[0]) - 10, int(times[1]) + 10],
                "kind": ["click", "click", "view"],
                "value": [1.0, 1.0, 1.0],
            }
        )
        unknown = clicks.head(1).with_columns(pl.lit(float("nan")).alias("value"))
        feedback = pl.concat([clicks, dwells, odd, clicks.head(2), unknown])
        if day >= 4:  # of an impression that was labelled long ago
            feedback = pl.concat(
                [feedback, odd.head(1).with_columns(pl.lit((day - 4) * DAY_S, dtype=pl.Int64).alias("time"))]
            )
        if day >= 3:  # of an impression whose labels were closed, though the feedback's own window was not
            evening = self._impressions(day - 3).filter(pl.col("time") > (day - 2) * DAY_S - DAY_S // 2).head(2)
            late = evening.select(
                "id",
                pl.lit((day - 2) * DAY_S + 9, dtype=pl.Int64).alias("time"),
                pl.lit("dwell").alias("kind"),
                pl.lit(9.0).alias("value"),
            )
            feedback = pl.concat([feedback, late])
        return impressions, feedback.sort("time", maintain_order=True)

    def _impressions(self, day: int) -> pl.DataFrame:
        rng = np.random.default_rng(day)
        times = np.sort(day * DAY_S + rng.integers(0, DAY_S, self.rows_a_day))
        items = rng.integers(0, 50, self.rows_a_day)
        return pl.DataFrame(
            {"id": day * 1_000 + np.arange(self.rows_a_day), "time": times, "domain": "all", "item": items}
        )


TABLES = (
    "arrivals", "impressions", "feedback", "late", "rejected", "labels", "pseudo_labels", "examples", "das_report",
    "predictions", "snapshots",
)  # fmt: skip
CONFIG = DasConfig(max_rejected=0.05)


def das_at(root: Path, *, on_step: OnStep = lambda step: None) -> Das:
    """Return the system under test, with windows of a day."""
    return Das(root=str(root), schema=SCHEMA, window_length=DAY_S, config=CONFIG, on_step=on_step)


def rows_of(das: Das) -> dict[str, pl.DataFrame]:
    """Return all rows of all tables, in an order of their own."""
    found = {}
    for name in TABLES:
        state = das.table(name, {}).state()
        rows = state.read(state.files) if state.files else pl.DataFrame()
        found[name] = rows.sort([column for column, dtype in rows.schema.items() if not isinstance(dtype, pl.List)])
    return found


def assert_same(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    """Assert that all tables have the same rows, whatever folder and versions of other tables they came from."""
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert_frame_equal(*(of.drop("file", "inputs", strict=False) for of in (found[name], rows)))
