"""The served model's answer to one query, for people."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from pydantic import FiniteFloat

from exfm.artifact.bundle import BundleManifest
from exfm.config import Config
from exfm.errors import DataError, StorageError
from exfm.features.oip import LENGTHS_SUFFIX
from exfm.schema import Schema, SparseFeature
from exfm.serving.smoke_test import SmokeTest

NUM_RANKED = 10
"""Number of items shown."""

NUM_SHOWN_IDS = 3
"""Number of ids of a bag shown; the rest is counted."""

Names = Mapping[str, Mapping[Any, str]]
"""Names of ids, by feature."""


class RankedItem(Config):
    """One place of the ranked list."""

    rank: int
    """Rank of the item; 1 is the best."""
    id: int | str
    """Id in the first single feature of items; if there is none, the item's position in the request."""
    name: str
    scores: dict[str, FiniteFloat]
    """Score of each task; items are ranked by the first."""


class Answer(Config):
    """A query, and the answer of the ranker and its shards."""

    model_name: str
    bundle_id: str
    num_shards: int
    max_abs_difference: FiniteFloat
    """Largest difference of a served score from the unsharded model's."""
    latency_ms: FiniteFloat
    num_candidates: int
    user: dict[str, str]
    """Features of the request's user, in short."""
    ranked: tuple[RankedItem, ...]
    """The best NUM_RANKED, best first."""


def read_answer(smoke_test: SmokeTest, *, bundles: Sequence[BundleManifest], names: Names) -> Answer:
    """Return the request and answer of a smoke test.

    Raises: StorageError if it served none of the bundles; DataError if a score is not a number.
    """
    bundle = next((bundle for bundle in bundles if bundle.bundle_id == smoke_test.bundle_id), None)
    if bundle is None:
        raise StorageError(
            f"the smoke test served bundle {smoke_test.bundle_id}, the run's are "
            f"{', '.join(bundle.bundle_id for bundle in bundles) or 'none'}; run `exfm smoke-test` again"
        )
    inputs = {item["name"]: item["data"] for item in smoke_test.request["inputs"]}
    outputs = {item["name"]: item["data"] for item in smoke_test.answer["outputs"]}
    scores = {task: _finite(outputs[task], task) for task in bundle.tasks}
    num_candidates = len(scores[bundle.tasks[0]])
    return Answer(
        model_name=smoke_test.model_name,
        bundle_id=smoke_test.bundle_id,
        num_shards=smoke_test.num_shards,
        max_abs_difference=smoke_test.max_abs_difference,
        latency_ms=smoke_test.latency_ms,
        num_candidates=num_candidates,
        user=_user_in_short(inputs, bundle.feature_schema, names),
        ranked=_ranked(scores, _ids(inputs, bundle.feature_schema, num_candidates), names),
    )


def _finite(scores: Sequence[float], task: str) -> Sequence[float]:
    for position, score in enumerate(scores):
        if not math.isfinite(score):
            raise DataError(f"the served answer's score {position} of task {task!r} is {score}; expected a number")
    return scores


def _ranked(
    scores: Mapping[str, Sequence[float]], ids: tuple[str, Sequence[int | str]], names: Names
) -> tuple[RankedItem, ...]:
    feature, id_of = ids
    first = next(iter(scores.values()))
    best = sorted(range(len(first)), key=lambda item: -first[item])[
        :NUM_RANKED
    ]  # stable: equal scores keep their order
    return tuple(
        RankedItem(
            rank=rank,
            id=id_of[item],
            name=names.get(feature, {}).get(id_of[item], f"{feature or 'candidate'} {id_of[item]}"),
            scores={task: values[item] for task, values in scores.items()},
        )
        for rank, item in enumerate(best, start=1)
    )


def _ids(inputs: Mapping[str, Sequence[Any]], schema: Schema, num_items: int) -> tuple[str, Sequence[int | str]]:
    """Return the feature that identifies items, and its id of each item."""
    feature = next((feature for feature in schema.sparse_of("item") if feature.kind == "single"), None)
    if feature is None:
        return "", range(num_items)
    return feature.name, [row[0] if row else "(none)" for row in _rows(inputs, feature)]


def _user_in_short(inputs: Mapping[str, Sequence[Any]], schema: Schema, names: Names) -> dict[str, str]:
    short = {feature.name: f"{inputs[feature.name][0]:g}" for feature in schema.dense_of("user")}
    for feature in schema.sparse_of("user"):
        ids = _rows(inputs, feature)[0]
        known = _names_of(feature, schema, names)
        latest = ids[::-1] if feature.kind == "sequence" else ids
        shown = [known.get(id_, str(id_)) for id_ in latest[:NUM_SHOWN_IDS]]
        more = f" and {len(ids) - NUM_SHOWN_IDS} more" if len(ids) > NUM_SHOWN_IDS else ""
        short[feature.name] = (", ".join(shown) + more) or "none"
    return short


def _names_of(feature: SparseFeature, schema: Schema, names: Names) -> Mapping[Any, str]:
    """Return the feature's own names, or those of a feature with the same ids: one that shares its table."""
    kin = [other for other in schema.sparse if (other.table, other.id_type) == (feature.table, feature.id_type)]
    return next((names[other.name] for other in (feature, *kin) if other.name in names), {})


def _rows(inputs: Mapping[str, Sequence[Any]], feature: SparseFeature) -> list[Sequence[Any]]:
    values = inputs[feature.name]
    lengths = inputs.get(feature.name + LENGTHS_SUFFIX, [1] * len(values))
    return [values[end - length : end] for end, length in zip(accumulate(lengths), lengths, strict=True)]
