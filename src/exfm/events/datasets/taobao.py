"""Taobao's display ads as Alibaba published them (Tianchi 56): eight days of ads, with users and ads described.

Source: BARS, github.com/reczoo/Datasets, Taobao/TaobaoAd_x1/README.md, which repeats the columns' meanings.
"""

import polars as pl

from exfm.events.csv_files import CsvLayout
from exfm.events.datasets.dataset import DataSet, Lookup, Outcome

PROFILE = (
    "cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level", "occupation",
    "new_user_class_level",
)  # fmt: skip
NULLS = ("", "NULL")

DATA = DataSet(
    title="Taobao's display ads (Tianchi 56)",
    files=("raw_sample.csv",),
    layout=CsvLayout(
        columns={
            **dict.fromkeys(("user", "time_stamp", "adgroup_id", "clk"), pl.Int64),
            "pid": pl.String,
        },
        required=("user", "time_stamp", "adgroup_id", "clk", "pid"),
    ),
    time=pl.col("time_stamp"),
    domain=pl.col("pid"),
    feedback={"click": Outcome(pl.col("clk") == 1)},
    left_out=("time_stamp", "clk"),
    lookups=(
        Lookup(
            file="ad_feature.csv",
            layout=CsvLayout(
                columns={
                    **dict.fromkeys(("adgroup_id", "cate_id", "campaign_id", "customer", "brand"), pl.Int64),
                    "price": pl.Float64,
                },
                required=("adgroup_id",),
                aliases={"customer_id": "customer"},
                nulls=NULLS,
            ),
            key="adgroup_id",
            of="adgroup_id",
        ),
        Lookup(
            file="user_profile.csv",
            layout=CsvLayout(columns=dict.fromkeys(("userid", *PROFILE), pl.Int64), required=("userid",), nulls=NULLS),
            key="userid",
            of="user",
        ),
    ),
    notes=("The file does not tell when a click came, so clicks are known at once.",),
)
