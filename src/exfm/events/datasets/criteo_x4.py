"""Criteo_x4: the rows of Criteo's Kaggle challenge, split at random.

Source: BARS, github.com/reczoo/Datasets, Criteo/Criteo_x4/README.md.
"""

from dataclasses import replace

import polars as pl

from exfm.events.csv_files import CsvLayout
from exfm.events.datasets import criteo_kaggle
from exfm.events.datasets.criteo_kaggle import CATEGORIES, COUNTS
from exfm.events.datasets.dataset import Outcome

DATA = replace(
    criteo_kaggle.DATA,
    title="Criteo_x4 of the BARS benchmark",
    files=("train.csv", "valid.csv", "test.csv"),
    layout=CsvLayout(
        columns={"Label": pl.Boolean, **dict.fromkeys(COUNTS, pl.Float64), **dict.fromkeys(CATEGORIES, pl.String)},
        required=("Label",),
    ),
    feedback={"click": Outcome(pl.col("Label"))},
    left_out=("Label",),
    notes=(*criteo_kaggle.DATA.notes, "Rows were split at random, so their order is no order of time."),
)
