"""The Open Bandit Dataset as an event log: an item that a policy showed is an impression, a click its feedback."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import Field, StringConstraints

from exfm.artifact.stores import entries, join, local_copy
from exfm.config import Config
from exfm.errors import DataError
from exfm.events.log import RawLog

CAMPAIGNS = ("all", "men", "women")
"""The domains; each has items of its own."""

ITEMS = "item_context.csv"
"""The items of a campaign; beside it are the impressions, in CAMPAIGN.csv."""

USER_FEATURES = [f"user_feature_{number}" for number in range(4)]
ITEM_FEATURES = [f"item_feature_{number}" for number in range(1, 4)]
"""Categories; item_feature_0 is a number."""

TIME = pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", time_unit="us", strict=False)

Values = tuple[type[pl.DataType], pl.Expr, str]
"""A column's type, whether a row's value is right, and the values that are expected, in words."""


class OpenBanditSource(Config):
    """The Open Bandit Dataset: campaigns of a fashion shop whose items a policy chose."""

    kind: Literal["open_bandit"] = "open_bandit"
    """Chooses this source."""
    folder: Annotated[str, StringConstraints(min_length=1)]
    """Folder `obd`, which holds `bts` and `random`; a path or an s3:// URL."""
    policies: Annotated[tuple[Literal["bts", "random"], ...], Field(min_length=1)] = ("bts",)
    """Policies whose impressions are read: `bts` (Bernoulli Thompson sampling), `random`, or both."""


def load_open_bandit(source: OpenBanditSource) -> RawLog:
    """Return the log of an Open Bandit folder: examples/open_bandit/schema.yaml names its columns.

    Impressions are numbered in order of time. A click has the time of its impression. Of a user's affinities to the
    campaign's items the log has the shown item's, their sum, and the items that have one.

    Raises: DataError if a file is missing, or a row is malformed; StorageError if the folder's store does not answer.
    """
    require_open_bandit(source)
    rows = pl.concat([_read_campaign(source, campaign) for campaign in CAMPAIGNS]).sort("time", maintain_order=True)
    rows = rows.select(
        pl.int_range(pl.len()).alias("impression_id"),
        pl.col("time").dt.epoch("s").alias("event_time_s"),
        pl.exclude("time"),
    )
    policies = " and ".join(source.policies)
    return RawLog(
        impressions=rows.drop("click"),
        feedback=rows.filter(pl.col("click") == 1).select(
            "impression_id", "event_time_s", pl.lit("click").alias("kind"), pl.lit(1.0).alias("value")
        ),
        source=f"the Open Bandit Dataset by ZOZO, policy {policies}",
        notes=(
            f"The data is the Open Bandit Dataset by ZOZO: {rows.height:,} impressions that {policies} chose.",
            "It does not tell when a click came, so clicks are known at once.",
            "It does not tell users apart.",
        ),
        names={},
    )


def require_open_bandit(source: OpenBanditSource) -> None:
    """Return if the files of a source are there.

    Raises: DataError if one is not; StorageError if the folder's store does not answer.
    """
    for policy in source.policies:
        for campaign in CAMPAIGNS:
            found = sorted(item["name"] for item in entries(join(source.folder, policy, campaign)))
            missing = [name for name in (f"{campaign}.csv", ITEMS) if name not in found]
            if missing:
                raise DataError(
                    f"{source.folder}: {policy}/{campaign} lacks {', '.join(missing)}; found "
                    f"{', '.join(found[:10]) or 'nothing'}; name the folder of the data that holds {policy}"
                )


def _read_campaign(source: OpenBanditSource, campaign: str) -> pl.DataFrame:
    places = [join(source.folder, policy, campaign) for policy in source.policies]
    items = _read_items(places[0])  # each policy's file has names of its own for the same categories
    shown = pl.concat([_read_impressions(place, campaign, num_items=items.height) for place in places])
    return shown.join(items, on="item_id", how="left", maintain_order="left").with_columns(
        pl.format(campaign + "-{}", "item_id").alias("item_id")
    )


def _read_items(place: str) -> pl.DataFrame:
    columns: dict[str, Values] = {
        "item_id": (pl.Int64, pl.col("item_id") == pl.int_range(pl.len()), "the number of the row, from 0"),
        "item_feature_0": (pl.Float64, pl.col("item_feature_0").is_finite(), "a number"),
        **_given(ITEM_FEATURES),
    }
    with local_copy(place, [ITEMS]) as local:
        return _read(local / ITEMS, columns, wanted=[pl.col(name) for name in columns])


def _read_impressions(place: str, campaign: str, *, num_items: int) -> pl.DataFrame:
    affinities = [f"user-item_affinity_{item}" for item in range(num_items)]
    columns: dict[str, Values] = {
        "timestamp": (pl.String, TIME.is_not_null(), "a time such as 2019-11-24 00:00:17.004101+00:00"),
        "item_id": (pl.Int64, pl.col("item_id").is_between(0, num_items - 1), f"0 to {num_items - 1}"),
        "position": (pl.Int64, pl.col("position") >= 1, "at least 1"),
        "click": (pl.Int64, pl.col("click").is_between(0, 1), "0 or 1"),
        "propensity_score": (pl.Float64, pl.col("propensity_score").is_between(0, 1), "a probability, 0 to 1"),
        **_given(USER_FEATURES),
        **{name: (pl.Float32, pl.col(name).is_between(0, 1e9), "a number, at least 0") for name in affinities},
    }
    affine = pl.concat_list(affinities)
    wanted = [
        TIME.alias("time"),
        pl.lit(campaign).alias("domain"),
        *map(pl.col, ("item_id", "position", "click", "propensity_score", *USER_FEATURES)),
        affine.list.get(pl.col("item_id"), null_on_oob=True).alias("affinity"),
        pl.sum_horizontal(affinities).alias("total_affinity"),
        affine.list.eval(pl.format(campaign + "-{}", (pl.element() > 0).arg_true())).alias("affine_items"),
    ]
    name = f"{campaign}.csv"
    with local_copy(place, [name]) as local:
        return _read(local / name, columns, wanted=wanted)


def _given(names: Sequence[str]) -> dict[str, Values]:
    return {name: (pl.String, pl.col(name).is_not_null(), "text") for name in names}


def _read(path: Path, columns: Mapping[str, Values], *, wanted: Sequence[pl.Expr]) -> pl.DataFrame:
    """Return what is wanted of a file's rows. Memory holds this alone, not the file."""
    try:
        text = pl.scan_csv(path, infer_schema=False)
        found = text.collect_schema().names()
        missing = [name for name in columns if name not in found]
        if missing:
            raise DataError(
                f"{path}: column {', '.join(map(repr, missing[:5]))} is missing; the columns are "
                f"{', '.join(filter(None, found))[:500]}: copy the file again"
            )
        types = {name: columns[name][0] if name in columns else pl.String for name in found}
        wrong = [pl.when(~right.fill_null(False)).then(pl.lit(name)) for name, (_, right, _) in columns.items()]
        # A value of another type becomes null, which is not right.
        typed = pl.scan_csv(path, schema=types, ignore_errors=True)
        rows = typed.select(*wanted, pl.coalesce(wrong).alias("wrong")).collect(
            engine="streaming",
            optimizations=pl.QueryOptFlags(projection_pushdown=False),  # with it, a field too many goes unseen
        )
        is_wrong = rows["wrong"].is_not_null()
        if is_wrong.any():
            row = int(is_wrong.arg_max() or 0)
            column = rows["wrong"][row]
            value = text.select(column).slice(row, 1).collect().item()
            raise DataError(
                f"{path}: {is_wrong.sum()} of {rows.height} rows are malformed, the first in line {row + 2}: {column} "
                f"is {value!r:.100}, expected {columns[column][2]}; copy the file again"
            )
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read as CSV ({reason:.200}); copy the file again") from error
    if rows.is_empty():
        raise DataError(f"{path}: there are no rows; copy the file again")
    return rows.drop("wrong")
