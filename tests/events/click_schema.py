"""The schema of a log with one feature and one label."""

from exfm.schema import Schema

SCHEMA = Schema.parse(
    {
        "impression_key": "id",
        "event_time": {"column": "time"},
        "domain": "domain",
        "sparse": [{"name": "item", "net": "item", "table": "item"}],
        "tables": [{"name": "item", "rows": 16, "dim": 4}],
        "labels": [{"name": "click", "feedback": "click", "attribution_window": 100}],
    },
    source="test",
)
