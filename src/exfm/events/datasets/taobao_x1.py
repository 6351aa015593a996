"""TaobaoAd_x1: ads that Taobao showed, each with its user's behaviour until then.

Source: BARS, github.com/reczoo/Datasets, Taobao/TaobaoAd_x1/README.md and convert_taobaoad_x1.py.
"""

import polars as pl

from exfm.events.csv_files import ITEMS, CsvLayout
from exfm.events.datasets.dataset import DataSet, Outcome

DATA = DataSet(
    title="TaobaoAd_x1 of the BARS benchmark",
    files=("train.csv", "test.csv"),
    layout=CsvLayout(
        columns={
            "clk": pl.Int64,
            **dict.fromkeys(
                ("userid", "cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level")
                + ("shopping_level", "occupation", "new_user_class_level", "adgroup_id", "cate_id", "campaign_id")
                + ("customer", "brand", "pid", "btag"),
                pl.String,
            ),
            "price": pl.Float64,
            **dict.fromkeys(("cate_his", "brand_his", "btag_his"), ITEMS),
        },
        required=("clk", "pid"),
    ),
    feedback={"click": Outcome(pl.col("clk") == 1)},
    left_out=("clk", "btag"),  # btag is 1 in each row
    domain=pl.col("pid"),
)
