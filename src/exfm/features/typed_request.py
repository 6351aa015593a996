"""A request as a person types it: what a user is like, and each item to be ranked.

    {"user": {"age": 24, "liked_items": [50, 172]}, "items": [{"item_id": 242, "genres": ["Comedy"]}, {"item_id": 302}]}

It is for one user, and means what the protocol's tensors do (exfm.features.request); what is left out is missing.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from exfm.errors import RequestError
from exfm.features.oip import inputs_of_net, json_tensor
from exfm.schema import NUM_CANDIDATES, Net, Schema, SparseFeature

USER, ITEMS = "user", "items"

_MISSING = float("nan")


def to_inputs(body: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """Return a request's body with the protocol's inputs in the place of what a person typed; another as it is.

    Values are not looked at: who reads inputs refuses those of another type (exfm.features.oip).

    Raises: RequestError, which names what was typed, if it is no request of a model with this schema.
    """
    if body.keys().isdisjoint({USER, ITEMS}):
        return body
    if "inputs" in body:
        raise RequestError(f"the request has `inputs`, and `{USER}` or `{ITEMS}`; send either")
    items = body.get(ITEMS)
    if not isinstance(items, list):
        raise RequestError(f"`{ITEMS}` is {items!r:.40}, expected a list of objects with an item's features each")
    inputs = [
        *_inputs({USER: body.get(USER, {})}, schema, "user"),
        *_inputs({f"{ITEMS}[{place}]": item for place, item in enumerate(items)}, schema, "item"),
        json_tensor(NUM_CANDIDATES, "INT32", [len(items)]),
    ]
    others = {key: value for key, value in body.items() if key not in {USER, ITEMS}}
    return {**others, "inputs": inputs}


def _inputs(rows: Mapping[str, Any], schema: Schema, net: Net) -> list[dict[str, Any]]:
    """Return the inputs of one net from its rows, by what messages call them."""
    features = schema.feature_names([net])
    for name, row in rows.items():
        if not isinstance(row, dict):
            raise RequestError(f"`{name}` is {row!r:.40}, expected an object with the {net}'s features")
        if unknown := row.keys() - features:
            raise RequestError(f"`{name}` has {min(unknown)!r:.40}; the {net}'s features are {', '.join(features)}")
    dense, sparse = {}, {}
    for number in schema.dense_of(net):
        values = [row.get(number.name) for row in rows.values()]
        dense[number.name] = [_MISSING if value is None else value for value in values]
    for feature in schema.sparse_of(net):
        ids = [_ids_of(feature, row.get(feature.name), name) for name, row in rows.items()]
        sparse[feature.name] = (list(chain.from_iterable(ids)), [len(of_row) for of_row in ids])
    return inputs_of_net(schema, net, dense=dense, sparse=sparse)


def _ids_of(feature: SparseFeature, value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    is_single = feature.kind == "single"
    if isinstance(value, list) == is_single:
        expected = "one id" if is_single else "a list of ids"
        raise RequestError(f"`{name}` has {value!r:.40} as {feature.name!r}, expected {expected}")
    return [value] if is_single else value
