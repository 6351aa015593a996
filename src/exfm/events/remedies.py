"""Changes of a schema that may make a column fit it."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import polars as pl
import yaml

from exfm.events.times import likely_unit
from exfm.schema import Schema

KINDS = ("single", "bag")
"""Of sparse features. A sequence has the form of a bag; which of the two a list is, only its owner knows."""


def schema_changes(schema: Schema, column: str, values: pl.Series) -> Iterator[tuple[str, Schema]]:
    """Yield what to write in a schema for a column, and the schema with it.

    `values` are some of the column's. What to write is one line of YAML; about a feature it has the keys that change.
    """
    time = schema.event_time
    if column == time.column:
        changes = {"column": column, "kind": "absolute"}
        if unit := likely_unit(values):
            changes["unit"] = unit
        if time.zone != "UTC":
            changes["zone"] = time.zone
        yield f"event_time: {_line(changes)}", _parsed(schema, event_time=changes)
    for dense in schema.dense:
        if dense.name == column:
            yield _with_feature(schema, "dense", column, {"missing": "mean"})
    for feature in schema.sparse:
        if feature.name == column:
            own = "single" if feature.kind == "single" else "bag"
            for kind, id_type in product(KINDS, ("int64", "string")):
                changes = {"kind": kind} if kind != own else {}
                changes |= {"id_type": id_type} if id_type != feature.id_type else {}
                if changes:
                    yield _with_feature(schema, "sparse", column, changes)


def _with_feature(schema: Schema, key: str, name: str, changes: Mapping[str, str]) -> tuple[str, Schema]:
    features = [one | changes if one["name"] == name else one for one in schema.to_dict()[key]]
    return _line(changes).strip("{}"), _parsed(schema, **{key: features})


def _parsed(schema: Schema, **changes: Any) -> Schema:
    return Schema.parse(schema.to_dict() | changes, source="the changed schema")


def _line(changes: Mapping[str, str]) -> str:
    return yaml.safe_dump(dict(changes), default_flow_style=True, sort_keys=False, width=1000).strip()
