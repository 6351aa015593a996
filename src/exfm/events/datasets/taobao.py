"""Taobao's display ads as Alibaba published them (Tianchi 56): eight days of ads, and what users did before.

Source: BARS, github.com/reczoo/Datasets, Taobao/TaobaoAd_x1/README.md, which repeats the columns' meanings.
"""

import polars as pl

from exfm.events.csv_files import CsvLayout
from exfm.events.datasets.dataset import Behaviours, DataSet, Lookup, Outcome

PROFILE = (
    "cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level", "occupation",
    "new_user_class_level",
)  # fmt: skip
AD = ("cate_id", "campaign_id", "customer", "brand")
KINDS = {"pv": 1, "ipv": 1, "cart": 2, "fav": 3, "buy": 4}
"""Numbers of the kinds of behaviour in btag_his; copies differ in the name of the first. 0: another."""
NULLS = ("", "NULL")
SAMPLE = {**dict.fromkeys(("user", "time_stamp", "adgroup_id"), pl.Int64), "pid": pl.String, "clk": pl.Boolean}
DONE = dict.fromkeys(("user", "time_stamp", "cate", "brand"), pl.Int64)

ADS = CsvLayout(
    columns={**dict.fromkeys(("adgroup_id", *AD), pl.Int64), "price": pl.Float64},
    required=("adgroup_id",),
    aliases={"customer_id": "customer"},
    nulls=NULLS,
)
USERS = CsvLayout(columns=dict.fromkeys(("userid", *PROFILE), pl.Int64), required=("userid",), nulls=NULLS)
BEHAVIOURS = CsvLayout(
    columns={**DONE, "btag": pl.String},
    required=("user", "time_stamp", "btag"),
    aliases={"nick": "user"},
    nulls=NULLS,
)
DATA = DataSet(
    title="Taobao's display ads (Tianchi 56)",
    files=("raw_sample.csv",),
    layout=CsvLayout(columns=SAMPLE, required=tuple(SAMPLE)),
    time=pl.col("time_stamp"),
    domain=pl.col("pid"),
    feedback={"click": Outcome(pl.col("clk"))},
    left_out=("time_stamp", "clk"),
    lookups=(
        Lookup(file="ad_feature.csv", layout=ADS, key="adgroup_id", of="adgroup_id"),
        Lookup(file="user_profile.csv", layout=USERS, key="userid", of="user"),
    ),
    behaviours=Behaviours(
        file="behavior_log.csv",
        layout=BEHAVIOURS,
        user="user",
        time="time_stamp",
        of="user",
        sequences={
            "btag_his": pl.col("btag").replace_strict(KINDS, default=0),
            **{f"{name}_his": pl.col(name).fill_null(0) for name in ("cate", "brand")},
        },
        max_length=50,
    ),
    notes=("The file does not tell when a click came, so clicks are known at once.",),
)
