"""KuaiVideo_x1: thumbnails of micro-videos that Kuaishou showed.

Source: BARS, github.com/reczoo/Datasets, KuaiShou/KuaiVideo_x1/README.md and convert_kuaivideo_x1.py.
"""

import polars as pl

from exfm.events.csv_files import ITEMS, CsvLayout
from exfm.events.datasets.dataset import DataSet, Outcome

KINDS = ("click", "like", "follow")

DATA = DataSet(
    title="KuaiVideo_x1 of the BARS benchmark",
    files=("train.csv", "test.csv"),
    layout=CsvLayout(
        columns={
            **{f"is_{kind}": pl.Boolean for kind in KINDS},
            **dict.fromkeys(("user_id", "item_id"), pl.String),
            **dict.fromkeys(("pos_items", "neg_items"), ITEMS),
        },
        required=[f"is_{kind}" for kind in KINDS],
    ),
    feedback={kind: Outcome(pl.col(f"is_{kind}")) for kind in KINDS},
    left_out=[f"is_{kind}" for kind in KINDS],
    notes=(
        "The column timestamp is not read: it is ordinal, each file is in its order, and all of train.csv is read "
        "before test.csv.",
        "The visual embeddings of items are not read.",
    ),
)
