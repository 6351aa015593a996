"""The labels and the join of a log's days as one polars query a day, without tables, accounts or order."""

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
from turns import answer_once


def join_days(job: dict[str, Any]) -> dict[str, int]:
    """Write each day's impressions with their labels; return the rows, and the positive labels of each task."""
    counts = {"num_rows": 0, "click": 0, "stay": 0}
    for files in job["days"]:
        impressions = pl.scan_parquet(files["impressions"])
        feedback = pl.scan_parquet(files["feedback"]).join(impressions.select("id", shown="time"), on="id")
        delay = pl.col("time") - pl.col("shown")
        clicks = feedback.filter((pl.col("kind") == "click") & delay.is_between(0, job["click_within_s"]))
        dwells = feedback.filter((pl.col("kind") == "dwell") & delay.is_between(0, job["dwell_within_s"]))
        is_long = pl.col("value").sort_by("time").last() >= job["long"]
        labels = [
            clicks.select("id", pl.lit(1, pl.Int8).alias("click")).unique("id"),
            dwells.group_by("id").agg(is_long.cast(pl.Int8).alias("stay")),
        ]
        for label in labels:
            impressions = impressions.join(label, on="id", how="left")
        rows = impressions.with_columns(pl.col("click", "stay").fill_null(0)).collect()
        rows.write_parquet(files["out"])
        for name, count in (("num_rows", rows.height), ("click", rows["click"].sum()), ("stay", rows["stay"].sum())):
            counts[name] += int(count)
    return counts


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer_once(lambda: join_days(job))
