"""TaobaoAd_x1: ads that Taobao showed, each with its user's behaviour until then.

Source: BARS, github.com/reczoo/Datasets, Taobao/TaobaoAd_x1/README.md and convert_taobaoad_x1.py.
"""

import polars as pl

from exfm.events.csv_files import ITEMS, CsvLayout
from exfm.events.datasets.dataset import DataSet, Outcome
from exfm.events.datasets.taobao import PROFILE

IDS = ("userid", *PROFILE, "adgroup_id", "cate_id", "campaign_id", "customer", "brand", "pid")
"""Column btag is not read: it is 1 in each row."""

DATA = DataSet(
    title="TaobaoAd_x1 of the BARS benchmark",
    files=("train.csv", "test.csv"),
    layout=CsvLayout(
        columns={
            "clk": pl.Boolean,
            **dict.fromkeys(IDS, pl.String),
            "price": pl.Float64,
            **dict.fromkeys(("cate_his", "brand_his", "btag_his"), ITEMS),
        },
        required=("clk", "pid"),
    ),
    feedback={"click": Outcome(pl.col("clk"))},
    left_out=("clk",),
    domain=pl.col("pid"),
)
