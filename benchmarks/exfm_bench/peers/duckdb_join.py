"""The labels and the join of a log's days as one query of DuckDB a day."""

import json
import sys
from pathlib import Path
from typing import Any

import duckdb
from turns import answer_once

QUERY = """
COPY (
    SELECT impressions.*, coalesce(labels.click, 0)::TINYINT AS click, coalesce(labels.stay, 0)::TINYINT AS stay
    FROM read_parquet(?) AS impressions LEFT JOIN (
        SELECT
            feedback.id,
            max((kind = 'click' AND feedback.time - shown.time <= ?)::INT) AS click,
            (arg_max(value, feedback.time)
                FILTER (kind = 'dwell' AND feedback.time - shown.time <= ?) >= ?)::INT AS stay
        FROM read_parquet(?) AS feedback JOIN read_parquet(?) AS shown ON feedback.id = shown.id
        WHERE feedback.time >= shown.time
        GROUP BY feedback.id
    ) AS labels ON impressions.id = labels.id
) TO '{out}' (FORMAT parquet, COMPRESSION zstd)
"""
COUNTS = "SELECT count(*), sum(click), sum(stay) FROM read_parquet(?)"


def join_days(job: dict[str, Any]) -> None:
    """Write each day's impressions with their labels."""
    limits = [job["click_within_s"], job["dwell_within_s"], job["long"]]
    for files in job["days"]:
        shown = files["impressions"]
        duckdb.execute(QUERY.format(out=files["out"]), [shown, *limits, files["feedback"], shown])


def counts(job: dict[str, Any]) -> dict[str, int]:
    """Return the rows that were written, and the positive labels of each task."""
    found = duckdb.execute(COUNTS, [[files["out"] for files in job["days"]]]).fetchone()
    return {name: int(count) for name, count in zip(("num_rows", "click", "stay"), found, strict=True)}


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer_once(lambda: join_days(job), found=lambda: counts(job))
