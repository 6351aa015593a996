"""A small log of ads that grows by a day, and a run over it."""

from typing import Any

import numpy as np
import polars as pl

ROWS = 300
"""Impressions of a day."""
DAY_S = 86_400
FIRST_DAY = 20_454
"""2026-01-01, in days since 1970."""

SMALL = {"network": {"bottom_units": [4], "num_cross_layers": 1, "cross_rank": 4, "top_units": [8]}}


def file_name(day: int) -> str:
    """Return the name of a day's files; day 0 is the first."""
    return f"2026-01-{day + 1:02}.parquet"


def day_of_log(day: int) -> dict[str, pl.DataFrame]:
    """Return the impressions and the feedback of a day: ads below 20 are clicked half an hour later."""
    rng = np.random.default_rng(day)
    shown = pl.DataFrame(
        {
            "id": 1_000 * day + np.arange(ROWS),
            "time": DAY_S * (FIRST_DAY + day) + np.sort(rng.integers(0, DAY_S, ROWS)),
            "site": rng.choice(["news", "shop"], ROWS),
            "ad": rng.integers(0, 50, ROWS),
        }
    )
    clicks = shown.filter(pl.col("ad") < 20).select("id", pl.col("time") + 1_800, kind=pl.lit("click"))
    return {"impressions": shown, "feedback": clicks}


def run_settings(name: str, *, root: str, log: str, **changes: Any) -> dict[str, Any]:
    """Return a run over a log, with one foundation and one vertical model, changed at its top level."""
    training = {"batch_size": 32, "learning_rate": 0.02, "warmup_windows": 1}
    return {
        "name": name,
        "root": root,
        "feature_schema": {
            "impression_key": "id",
            "event_time": {"column": "time"},
            "domain": "site",
            "sparse": [{"name": "ad", "net": "item", "table": "ad"}],
            "tables": [{"name": "ad", "rows": 64, "dim": 4}],
            "labels": [{"name": "click", "feedback": "click", "attribution_window": 21_600}],
        },
        "source": {"kind": "log", "impressions": f"{log}/impressions", "feedback": f"{log}/feedback"},
        "window_length": DAY_S,
        "das": {"allowed_lateness": 3_600},
        "foundation_models": [{"name": "fm", "model": SMALL | {"dim_factor": 2}, "training": training}],
        "bundle": {"sharding": {"num_shards": 1}},
        # So few examples make no model that users would want.
        "deployment": {"promotion": {"max_ne_increase": 1, "max_calibration_error": 10}},
        "vertical_models": [{"name": name, "model": SMALL, "training": training}],
    } | changes
