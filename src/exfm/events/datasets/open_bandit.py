"""The Open Bandit Dataset: items that two policies showed in three campaigns of a fashion shop, and clicks.

Source: Saito et al., "Open Bandit Dataset and Pipeline", arXiv 2008.07146; its sample in the wheel obp 0.4.1.
"""

import polars as pl

from exfm.events.csv_files import CsvLayout
from exfm.events.datasets.dataset import DataSet, Lookup, Outcome

NUM_ITEMS = {"all": 80, "men": 34, "women": 46}
"""Items of each campaign; the campaigns are the domains."""
POLICIES = ("bts", "random")
FEATURES = [f"user_feature_{number}" for number in range(4)]
CATEGORIES = [f"item_feature_{number}" for number in range(1, 4)]


def part(policy: str, campaign: str) -> DataSet:
    """Return the rows of one campaign that one policy chose; of affinities, the log has what they say in short."""
    affinities = [f"user-item_affinity_{item}" for item in range(NUM_ITEMS[campaign])]
    affine = pl.concat_list(affinities)
    return DataSet(
        title="the Open Bandit Dataset by ZOZO",
        files=(f"{policy}/{campaign}/{campaign}.csv",),
        layout=CsvLayout(
            columns={
                **dict.fromkeys(("item_id", "position"), pl.Int64),
                **dict.fromkeys(("timestamp", *FEATURES), pl.String),
                "click": pl.Boolean,
                **dict.fromkeys(("propensity_score", *affinities), pl.Float64),
            },
            required=("timestamp", "item_id", "click", *affinities),
        ),
        time=pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", time_unit="us", strict=False),
        domain=pl.lit(campaign),
        feedback={"click": Outcome(pl.col("click"))},
        left_out=("timestamp", "click", *affinities),
        derived={
            "policy": pl.lit(policy),
            "affinity": affine.list.get(pl.col("item_id"), null_on_oob=True),
            "total_affinity": pl.sum_horizontal(affinities),
            "affine_items": affine.list.eval(pl.format(campaign + "-{}", (pl.element() > 0).arg_true())),
            "item_id": pl.format(campaign + "-{}", "item_id"),
        },
        lookups=(
            Lookup(
                file=f"{POLICIES[0]}/{campaign}/item_context.csv",  # the other policy's names the categories otherwise
                layout=CsvLayout(
                    columns={"item_id": pl.Int64, "item_feature_0": pl.Float64, **dict.fromkeys(CATEGORIES, pl.String)},
                    required=("item_id", "item_feature_0", *CATEGORIES),
                ),
                key="item_id",
                of="item_id",
            ),
        ),
        notes=("The file does not tell when a click came, so clicks are known at once. It does not tell users apart.",),
    )


DATA = [part(policy, campaign) for policy in POLICIES for campaign in NUM_ITEMS]
