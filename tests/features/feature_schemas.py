"""A small schema with every kind of feature, for the tests of this folder."""

from typing import Any

from exfm.schema import Schema

SCHEMA = Schema.parse(
    {
        "impression_key": "impression",
        "event_time": {"column": "time"},
        "domain": "domain",
        "dense": [
            {"name": "age", "net": "user", "missing": "mean", "normalisation": {"mean": 33.0, "std": 11.5}},
            {"name": "price", "net": "item", "normalisation": {"transform": "log1p", "mean": 1.0, "std": 2.0}},
            {"name": "tenure", "net": "user", "missing": "mean", "normalisation": {"transform": "log1p"}},
        ],
        "sparse": [
            {"name": "user_id", "net": "user", "table": "user"},
            {"name": "words", "net": "item", "kind": "bag", "id_type": "string", "table": "text", "max_length": 3},
            {"name": "city", "net": "user", "id_type": "string", "table": "text"},
            {"name": "history", "net": "user", "kind": "sequence", "table": "item", "max_length": 4},
            {"name": "item_id", "net": "item", "table": "item"},
            {
                "name": "searches", "net": "user", "kind": "sequence", "id_type": "string", "table": "text",
                "max_length": 2,
            },
            {"name": "shelves", "net": "item", "kind": "bag", "table": "user", "max_length": 2},
        ],
        "tables": [
            {"name": "user", "rows": 50, "dim": 4},
            {"name": "item", "rows": 60, "dim": 8, "pooling": "mean"},
            {"name": "text", "rows": 70, "dim": 4},
        ],
        "labels": [{"name": "click", "feedback": "click", "attribution_window": 10}],
    },
    source="tests",
)  # fmt: skip


def row(**changes: Any) -> dict[str, Any]:
    """Return one example's features."""
    return {
        "age": 30.0, "price": 9.5, "tenure": 3.0, "user_id": 1, "words": ["a", "b"], "city": "Ulm",
        "history": [1, 2, 3], "item_id": 5, "searches": ["x"], "shelves": [],
    } | changes  # fmt: skip
