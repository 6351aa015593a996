"""AmazonElectronics_x1: products that a user reviewed next, and as many that the user did not.

Source: BARS, github.com/reczoo/Datasets, Amazon/AmazonElectronics_x1/README.md.
"""

import polars as pl

from exfm.events.csv_files import ITEMS, CsvLayout
from exfm.events.datasets.dataset import DataSet, Outcome

DATA = DataSet(
    title="AmazonElectronics_x1 of the BARS benchmark",
    files=("train.csv", "test.csv"),
    layout=CsvLayout(
        columns={
            "label": pl.Boolean,
            **dict.fromkeys(("user_id", "item_id", "cate_id"), pl.String),
            **dict.fromkeys(("item_history", "cate_history"), ITEMS),
        },
        required=("label",),
    ),
    feedback={"review": Outcome(pl.col("label"))},
    left_out=("label",),
    notes=("Negatives were drawn by the benchmark, so the base rate is the benchmark's.",),
)
