"""Criteo's data set of delayed feedback: clicks, and when each led to a conversion.

Source: Chapelle, "Modeling delayed feedback in display advertising", KDD 2014, doi:10.1145/2623330.2623634 (not read
here: the layout is that of the data set's own description).
"""

import polars as pl

from exfm.events.csv_files import CsvLayout
from exfm.events.datasets.dataset import DataSet, Outcome

COUNTS = [f"count_{number}" for number in range(1, 9)]
CATEGORIES = [f"category_{number}" for number in range(1, 10)]

DATA = DataSet(
    title="Criteo's delayed feedback, data.txt",
    files=("data.txt",),
    layout=CsvLayout(
        columns={
            **dict.fromkeys(("click_time", "conversion_time"), pl.Int64),
            **dict.fromkeys(COUNTS, pl.Float64),
            **dict.fromkeys(CATEGORIES, pl.String),
        },
        separator="\t",
        has_header=False,
        required=("click_time",),
    ),
    time=pl.col("click_time"),
    feedback={"conversion": Outcome(pl.col("conversion_time").is_not_null(), time=pl.col("conversion_time"))},
    left_out=("click_time", "conversion_time"),
    derived={count: pl.col(count).clip(lower_bound=0) for count in COUNTS},
    notes=(
        "Each impression is a click. Conversions have their own times.",
        "Times are in seconds from an unknown start, so they are ordinal.",
        "Counts below 0 are read as 0: their logarithm is a feature.",
    ),
)
