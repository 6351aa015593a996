"""Avazu's Kaggle challenge of 2014: ten days of mobile ads.

Source: BARS, github.com/reczoo/Datasets, Avazu/Avazu_x4/README.md (hour, weekday and weekend instead of the time).
"""

import polars as pl

from exfm.events.csv_files import CsvLayout
from exfm.events.datasets.dataset import DataSet, Outcome

CATEGORIES = (
    "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category", "device_id",
    "device_ip", "device_model", "device_type", "device_conn_type", *(f"C{number}" for number in range(14, 22)),
)  # fmt: skip
TIME = pl.format("{}00", pl.col("hour")).str.to_datetime("%y%m%d%H%M", strict=False)

DATA = DataSet(
    title="Avazu's Kaggle challenge, train.csv",
    files=("train.csv",),
    layout=CsvLayout(
        columns={
            "click": pl.Boolean,
            "hour": pl.String,
            **dict.fromkeys(CATEGORIES, pl.String),
        },
        required=("click", "hour", "site_category"),
    ),
    time=TIME.dt.epoch("s"),
    domain=pl.col("site_category"),
    feedback={"click": Outcome(pl.col("click"))},
    left_out=("click", "hour"),
    derived={
        "hour_of_day": TIME.dt.hour().cast(pl.Int64),
        "weekday": TIME.dt.weekday().cast(pl.Int64),
        "is_weekend": (TIME.dt.weekday() >= 6).cast(pl.Int64),
    },
    notes=(
        "Time has the resolution of an hour. The file does not tell when a click came, so clicks are known at once.",
    ),
)
