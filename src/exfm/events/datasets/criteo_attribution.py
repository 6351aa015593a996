"""Criteo's attribution data set: 30 days of banners, with clicks and the conversions that came later.

Source: the data set's README.md, huggingface.co/datasets/criteo/criteo-attribution-dataset.
"""

import polars as pl

from exfm.events.csv_files import CsvLayout
from exfm.events.datasets.dataset import DataSet, Outcome

FLAGS = ("click", "conversion", "attribution")
LATER = (*FLAGS, "conversion_timestamp")
CATEGORIES = [f"cat{number}" for number in range(1, 10)]

DATA = DataSet(
    title="Criteo's attribution data set",
    files=("criteo_attribution_dataset.tsv",),
    layout=CsvLayout(
        columns={
            **dict.fromkeys(("timestamp", "conversion_timestamp"), pl.Int64),
            **dict.fromkeys(FLAGS, pl.Boolean),
            **dict.fromkeys(("uid", "campaign", *CATEGORIES), pl.String),
            "time_since_last_click": pl.Float64,
        },
        separator="\t",
        required=("timestamp", *LATER),
    ),
    time=pl.col("timestamp"),
    feedback={
        "click": Outcome(pl.col("click")),
        "conversion": Outcome(pl.col("conversion"), time=pl.col("conversion_timestamp")),
        "attributed": Outcome(pl.col("attribution"), time=pl.col("conversion_timestamp")),
    },
    left_out=("timestamp", *LATER),
    derived={"time_since_last_click": pl.when(pl.col("time_since_last_click") >= 0).then("time_since_last_click")},
    notes=(
        "Conversions have their own times. The file does not tell when a click came, so clicks are known at once.",
        "Times are in seconds from an unknown start, so they are ordinal.",
    ),
)
