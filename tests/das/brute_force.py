"""The rules of attribution as plain loops, which tests hold the tables' code against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from exfm.das.attribution import ARRIVAL, ROW, Rules
from exfm.events.examples import label_column
from exfm.schema import Label, Schema
from exfm.tables.grid import WINDOW

LENGTH = 10
"""Steps of a window."""

REDUCTIONS = ("any", "max", "min", "last", "sum")
SCHEMA = Schema.parse(
    {
        "impression_key": "id",
        "event_time": {"column": "time", "kind": "ordinal"},
        "domain": "domain",
        "sparse": [{"name": "item", "net": "item", "table": "item"}],
        "tables": [{"name": "item", "rows": 8, "dim": 4}],
        "labels": [
            {
                "name": name,
                "feedback": "click" if name == "any" else "dwell",
                "attribution_window": 3 * place,
                "reduction": name,
                "positive_from": 1.0 if name == "any" else 3.0,
            }
            for place, name in enumerate(REDUCTIONS, start=1)
        ],
    },
    source="the test's schema",
)
RULES = Rules(SCHEMA, {label.name: label.attribution_window for label in SCHEMA.labels})
KINDS = ("click", "dwell", "view")


@dataclass(frozen=True)
class Shown:
    key: int
    time: int


@dataclass(frozen=True)
class Reaction:
    key: int
    time: int
    kind: str
    value: float
    arrival: str
    row: int

    @property
    def content(self) -> tuple[int, int, str, float]:
        return self.key, self.time, self.kind, self.value

    @property
    def place(self) -> tuple[str, int]:
        return self.arrival, self.row


def shown_frame(shown: Sequence[Shown]) -> pl.DataFrame:
    rows = [(one.key, one.time, one.time // LENGTH, "0", row) for row, one in enumerate(shown)]
    columns = {"id": pl.Int64, "time": pl.Int64, WINDOW: pl.Int64, ARRIVAL: pl.String, ROW: pl.Int64}
    return pl.DataFrame(rows, schema=columns, orient="row")


def reaction_frame(reactions: Sequence[Reaction]) -> pl.DataFrame:
    rows = [(*one.content, *one.place, one.time // LENGTH) for one in reactions]
    columns = {"id": pl.Int64, "time": pl.Int64, "kind": pl.String, "value": pl.Float64}
    return pl.DataFrame(rows, schema={**columns, ARRIVAL: pl.String, ROW: pl.Int64, WINDOW: pl.Int64}, orient="row")


def once(reactions: Sequence[Reaction]) -> list[Reaction]:
    """Return reactions without repetitions, in order of arrival."""
    found: dict[tuple[int, int, str, float], Reaction] = {}
    for one in sorted(reactions, key=lambda one: one.place):
        found.setdefault(one.content, one)
    return list(found.values())


def counting(shown: Shown, label: Label, reactions: Sequence[Reaction]) -> list[Reaction]:
    """Return the reactions that one label of an impression looks at, in order of time."""
    counted = [
        one
        for one in once(reactions)
        if one.key == shown.key
        and one.kind == label.feedback
        and 0 <= one.time - shown.time <= label.attribution_window
    ]
    return sorted(counted, key=lambda one: (one.time, one.place))


def label_of(shown: Shown, label: Label, reactions: Sequence[Reaction]) -> int:
    values = [one.value for one in counting(shown, label, reactions)]
    if not values:
        return 0
    match label.reduction:
        case "any":
            reduced = 1.0
        case "max":
            reduced = max(values)
        case "min":
            reduced = min(values)
        case "last":
            reduced = values[-1]
        case "sum":
            reduced = sum(values)
    return int(reduced >= label.positive_from)


def labels_by_hand(shown: Sequence[Shown], reactions: Sequence[Reaction]) -> dict[int, dict[str, int]]:
    """Return all labels by key and column."""
    return {
        one.key: {label_column(label.name): label_of(one, label, reactions) for label in SCHEMA.labels} for one in shown
    }


def states_by_hand(
    shown: Sequence[Shown], reactions: Sequence[Reaction], known: Mapping[int, str]
) -> dict[Reaction, str]:
    """Return what becomes of each reaction."""
    first, by_key = set(once(reactions)), {one.key: one for one in shown}
    states: dict[Reaction, str] = {}
    for one in reactions:
        limits = [label.attribution_window for label in SCHEMA.labels if label.feedback == one.kind]
        impression = by_key.get(one.key)
        if one not in first:
            states[one] = "duplicate"
        elif not limits:
            states[one] = "other_kind"
        elif impression is None:
            states[one] = "orphan"
        elif one.time < impression.time:
            states[one] = "early"
        elif one.time - impression.time > max(limits):
            states[one] = "expired"
        elif one.arrival > known.get(impression.time // LENGTH, "~"):
            states[one] = "late"
    in_time = [one for one in reactions if one not in states]
    deciding = {one for impression in shown for label in SCHEMA.labels for one in _deciding(impression, label, in_time)}
    return states | {one: "attached" if one in deciding else "superseded" for one in in_time}


def _deciding(shown: Shown, label: Label, in_time: Sequence[Reaction]) -> list[Reaction]:
    counted = counting(shown, label, in_time)
    if not counted:
        return []
    match label.reduction:
        case "any":
            return counted[:1]
        case "max":
            return [max(counted, key=lambda one: one.value)]  # the first of equals
        case "min":
            return [min(counted, key=lambda one: one.value)]
        case "last":
            return counted[-1:]
        case "sum":
            return counted
