"""A schema to start from, guessed from the columns of a user's files.

Names decide most of it, so its owner must read it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from exfm.errors import DataError
from exfm.events.column_facts import ColumnFacts
from exfm.schema import Schema

KEY, TIME, DOMAIN = "impression_id", "event_time", "domain"
"""Columns that the owner must add to files without them."""

MAX_ROWS = 2**22
"""Of a guessed table."""

_KEY = re.compile(r"^(id|row|key|(impression|request|event|sample|log)_?(id|key)?)$", re.IGNORECASE)
_TIME = re.compile(r"time|(^|_)(date|ts|hour)(_|$)", re.IGNORECASE)
_DOMAIN = re.compile(r"domain|scenario|^pid$|segment|channel|market|country|surface|placement|site_cat", re.IGNORECASE)
_USER = re.compile(r"^(user|uid|userid|member|visitor|customer|nick)(_?(id|key))?$", re.IGNORECASE)
_OF_USER = re.compile(
    r"user|uid|age\b|age_|gender|sex|occupation|device|zip|city|_his|hist|level|cms_|profile|pos_items|neg_items",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^(is_?|has_?)?(label|target|y|clk|click(ed)?|like(d)?|follow(ed)?|conv(ersion|erted)?|buy|purchase(d)?"
    r"|install(ed)?)$",
    re.IGNORECASE,
)
_LATER = re.compile(r"cli?c?k|conver|attribut|purchase|install", re.IGNORECASE)
"""Names of what may be known only after the impression; not of histories."""
_NUMBER = re.compile(r"price|count|num_|^n_|amount|age$|cost|ctr|rate|score|^I\d+$", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


@dataclass(frozen=True)
class Guess:
    """Which columns have which role."""

    key: str
    """Empty: none."""
    time: ColumnFacts | None
    domain: str
    """Empty: none."""
    user: ColumnFacts | None
    dense: Sequence[ColumnFacts]
    sparse: Sequence[ColumnFacts]
    labels: Sequence[ColumnFacts]
    others: Mapping[str, str]
    """Columns that are left out, and why."""


def guess_schema(facts: Sequence[ColumnFacts], *, kinds: Mapping[str, int], of: str) -> str:
    """Return a schema's YAML file with its reasons, row counts and cardinalities as comments; `of` names the files.

    `kinds` has the rows of each kind of feedback; empty: labels are columns with 0 and 1.

    Raises: DataError if no column can be a sparse feature.
    """
    guess = _roles(facts, has_feedback=bool(kinds))
    if not guess.sparse:
        raise DataError(f"{of}: no column has ids, expected at least one of whole numbers, text or lists of them")
    text = "\n".join(_lines(guess, kinds=kinds, of=of, num_rows=facts[0].num_rows)) + "\n"
    Schema.parse(yaml.safe_load(text), source="the guessed schema")
    return text


def _roles(facts: Sequence[ColumnFacts], *, has_feedback: bool) -> Guess:
    left = {one.name: one for one in facts}

    def take(*found: ColumnFacts) -> tuple[ColumnFacts, ...]:
        for one in found:
            left.pop(one.name)
        return found

    binary = [one for one in facts if one.kind == "integer" and {one.minimum, one.maximum} <= {0.0, 1.0}]
    binary = [one for one in binary if one.num_distinct == 2]
    labels = () if has_feedback else take(*([one for one in binary if _LABEL.search(one.name)] or binary[:1]))
    times = [one for one in left.values() if _is_time(one)]
    time = take(max(times, key=lambda one: one.kind == "time"))[0] if times else None
    keys = [one for one in left.values() if _KEY.search(one.name) and one.kind in ("integer", "text")]
    keys = [one for one in keys if one.num_distinct >= 0.9 * one.num_rows and not one.num_missing]
    key = take(keys[0])[0].name if keys else ""
    domains = [one for one in left.values() if one.kind == "text" and _DOMAIN.search(one.name) and not one.num_missing]
    domains = [one for one in domains if 2 <= one.num_distinct <= 100]
    users = [one for one in left.values() if _USER.search(one.name) and one.kind in ("integer", "text")]
    others = {one.name: why for one in left.values() if (why := _why_not(one))}
    named = [one for one in left.values() if one.name not in others]
    dense = [one for one in named if one.kind == "number" or (one.kind == "integer" and _NUMBER.search(one.name))]
    sparse = [one for one in named if one not in dense]
    return Guess(
        key=key,
        time=time,
        domain=min(domains, key=lambda one: one.num_distinct).name if domains else "",
        user=users[0] if users else None,
        dense=dense,
        sparse=sparse,
        labels=labels,
        others=others,
    )


def _why_not(one: ColumnFacts) -> str:
    """Return why a column is no feature; empty: it may be one."""
    if not _NAME.fullmatch(one.name):
        return "a feature's name has letters, digits and underscores only"
    if one.kind in ("time", "other") or (one.kind == "integer" and one.unit and _TIME.search(one.name)):
        return "a feature is a number, an id, or a list of ids"
    if one.kind == "list" and one.item_kind not in ("integer", "text"):
        return "the items of a list must be ids"
    if one.num_distinct <= 1:
        return "it is the same in each row"
    is_later = _LABEL.search(one.name) or (_LATER.search(one.name) and not _OF_USER.search(one.name))
    if one.kind != "list" and is_later:
        return "by its name it may be known only after the impression"
    return ""


def _is_time(one: ColumnFacts) -> bool:
    if one.kind == "time":
        return True
    return one.kind == "integer" and bool(_TIME.search(one.name)) and (bool(one.unit) or one.num_distinct > 100)


def _lines(guess: Guess, *, kinds: Mapping[str, int], of: str, num_rows: int) -> Iterator[str]:
    yield f"# Guessed by `exfm ingest --guess` from {of}: {num_rows:,} rows. Read each line: names decided most of it."
    yield "version: 1"
    no_key = f"{KEY}  # no column has keys: add this one, such as the number of the row"
    yield f"impression_key: {guess.key or no_key}"
    yield _time_line(guess.time)
    no_domain = f"{DOMAIN}  # no column has domains: add this one, such as a text that is the same in each row"
    yield f"domain: {guess.domain or no_domain}"
    if guess.user is not None:
        yield f"user: {guess.user.name}"
    if guess.dense:
        yield "dense:"
        yield from (_dense_line(one) for one in guess.dense)
    yield "sparse:"
    yield from (_sparse_line(one) for one in guess.sparse)
    yield "tables:  # twice as many rows as distinct ids, or the next power of two"
    for one in guess.sparse:
        pooling = ", pooling: mean" if one.kind == "list" else ""
        yield f"  - {{name: {one.name}, rows: {_table_rows(one)}, dim: 16{pooling}}}"
    yield "labels:  # feedback: its kind, in the files of feedback; attribution_window: how long it may take"
    for one in guess.labels:
        yield f"  - {{name: {one.name}, feedback: {one.name}, attribution_window: 0}}  # {one.mean:.4f} are 1"
    for kind, count in kinds.items():
        name = re.sub(r"\W", "_", kind)
        yield f"  - {{name: {name}, feedback: {json.dumps(kind)}, attribution_window: 0}}  # {count:,} rows"
    if not guess.labels and not kinds:
        yield "  - {name: click, feedback: click, attribution_window: 0}  # no column has 0 and 1: name your feedback"
    for name, why in guess.others.items():
        yield f"# left out: {name!r}: {why}"


def _time_line(time: ColumnFacts | None) -> str:
    if time is None:
        return f"event_time: {{column: {TIME}, kind: ordinal}}  # no column has times: add it, such as the row's number"
    if time.kind == "time":
        return f"event_time: {{column: {time.name}, kind: absolute}}  # timestamps; without a zone they are in `zone`"
    if time.unit:
        return f"event_time: {{column: {time.name}, kind: absolute, unit: {time.unit}}}  # {_range(time)}"
    return f"event_time: {{column: {time.name}, kind: ordinal}}  # {_range(time)}: no unit makes it a time since 1970"


def _dense_line(one: ColumnFacts) -> str:
    if one.minimum >= 0 and one.maximum > 20 * max(one.mean, 1e-9):
        form = "{transform: log1p}"
    else:
        form = f"{{mean: {one.mean:.4g}, std: {one.std or 1.0:.4g}}}"
    missing = ", missing: mean" if one.num_missing else ""
    return (
        f"  - {{name: {one.name}, net: {_net(one)}, normalisation: {form}{missing}}}  # {_range(one)}; {_counts(one)}"
    )


def _sparse_line(one: ColumnFacts) -> str:
    kind = ", kind: sequence" if one.kind == "list" else ""
    of_ids = one.item_kind if one.kind == "list" else one.kind
    id_type = ", id_type: string" if of_ids == "text" else ""
    length = f", max_length: {min(max(one.max_length, 1), 10_000)}" if one.kind == "list" else ""
    return f"  - {{name: {one.name}, net: {_net(one)}{kind}{id_type}, table: {one.name}{length}}}  # {_counts(one)}"


def _net(one: ColumnFacts) -> str:
    return "user" if one.kind == "list" or _OF_USER.search(one.name) else "item"


def _table_rows(one: ColumnFacts) -> int:
    rows = 16
    while rows < min(2 * one.num_distinct, MAX_ROWS):
        rows *= 2
    return rows


def _counts(one: ColumnFacts) -> str:
    about = "" if one.is_exact else "about "
    missing = f", {one.num_missing / one.num_rows:.1%} missing" if one.num_missing else ""
    return f"{about}{one.num_distinct:,} distinct{missing}"


def _range(one: ColumnFacts) -> str:
    return f"{one.minimum:g} to {one.maximum:g}"
