"""A log of a week without faults, and a tiny foundation model that learned it."""

from pathlib import Path

import numpy as np
import polars as pl
from growing_log import DAY_S, SCHEMA
from small_log import SmallLog, small_das

from exfm.artifact.storage import Ref
from exfm.das.advance import advance
from exfm.das.publishing import publish
from exfm.foundation.config import FoundationConfig, FoundationTrainingConfig
from exfm.foundation.line import foundation_line
from exfm.models.config import ModelConfig, NetworkConfig

DAYS = 7
ROWS_A_DAY = 40
FOUNDATION = FoundationConfig(
    model=ModelConfig(network=NetworkConfig(bottom_units=(4,), num_cross_layers=1, cross_rank=2, top_units=(4,))),
    training=FoundationTrainingConfig(batch_size=16, learning_rate=0.05, warmup_windows=0),
)


def impressions_of(day: int) -> pl.DataFrame:
    """Return a day's impressions."""
    rng = np.random.default_rng(day)
    times = np.sort(rng.integers(0, DAY_S, ROWS_A_DAY))
    return pl.DataFrame(
        {
            "id": day * 1_000 + np.arange(ROWS_A_DAY),
            "time": day * DAY_S + times,
            "domain": rng.choice(["a", "b", "c"], ROWS_A_DAY),
            "item": rng.integers(0, 50, ROWS_A_DAY),
        }
    )


def feedback_of(shown: pl.DataFrame) -> pl.DataFrame:
    """Return the feedback of impressions, of which some comes on the next day."""
    rng = np.random.default_rng(shown["id"][0])
    clicks = shown.filter(pl.col("item") < 20).select(
        "id", pl.col("time") + DAY_S // 8, pl.lit("click").alias("kind"), pl.lit(1.0).alias("value")
    )
    dwells = shown.select(
        "id",
        pl.col("time") + rng.integers(1, DAY_S, shown.height),
        pl.lit("dwell").alias("kind"),
        pl.Series("value", rng.uniform(0, 10, shown.height)),
    )
    return pl.concat([clicks, dwells]).sort("time")


def write_week(folder: Path, *, days: int = DAYS, flip_from: int = DAYS, repeat: bool = False) -> SmallLog:
    """Write a file a day, which has the feedback of that day.

    All feedback from day `flip_from` on is the contrary of what it was. With `repeat`, each day shows its first
    impression again.
    """
    log = SmallLog(folder)
    shown = [impressions_of(day) for day in range(days)]
    feedback = pl.concat([feedback_of(rows) for rows in shown])
    contrary = (
        pl.when(pl.col("kind") == "dwell").then(pl.struct(kind="kind", value=10.0 - pl.col("value")))
        .otherwise(pl.struct(kind=pl.lit("unclick"), value="value"))
    )  # fmt: skip
    day = pl.col("time") // DAY_S
    feedback = pl.concat(
        [
            feedback.filter(day < flip_from),
            feedback.filter(day >= flip_from).with_columns(contrary.alias("new")).drop("kind", "value").unnest("new"),
        ]
    )
    for number, rows in enumerate(shown):
        again = rows.head(1 if repeat else 0)
        log.write("impressions", f"day-{number}", pl.concat([rows, again]))
        log.write("feedback", f"day-{number}", feedback.filter(day == number))
    return log


def train(log: SmallLog, folder: Path) -> Ref:
    """Return a foundation model that learned a log, in a run of its own."""
    das, line = small_das(folder / "teacher"), foundation_line(FOUNDATION, SCHEMA)
    list(advance(das, log.source, foundation_models={line.name: line}))
    return publish(das, line)
