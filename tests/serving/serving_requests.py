"""Requests, their scores offline, and how tritonclient asks for them."""

from collections.abc import Collection, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

from exfm.artifact.bundle import BundleManifest
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.models.config import Precision
from exfm.models.scoring import UnshardedScorer

NUMPY_TYPES = {
    "FP32": np.float32, "FP64": np.float64, "INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64,
    "BYTES": np.object_,
}  # fmt: skip

Scores = dict[str, list[float]]


def make_request(*, num_candidates: list[int] | None = None) -> dict[str, Any]:
    """Return a request: three movies for one user, or as many as told for each of several."""
    counts = [3] if num_candidates is None else num_candidates
    users, items = range(len(counts)), range(sum(counts))
    genres = [["Drama", "Comedy"][: 1 + i % 2] for i in items]
    columns: list[tuple[str, str, list[Any]]] = [
        ("age", "FP32", [30.0 + u for u in users]),
        ("user_id", "INT64", [7 + u for u in users]),
        ("gender", "BYTES", ["F" for _ in users]),
        ("occupation", "BYTES", ["student" for _ in users]),
        ("liked_items", "INT64", [i for u in users for i in range(u + 2)]),
        ("liked_items.lengths", "INT32", [u + 2 for u in users]),
        ("disliked_items", "INT64", []),
        ("disliked_items.lengths", "INT32", [0 for _ in users]),
        ("release_year", "FP32", [1980.0 + i for i in items]),
        ("item_id", "INT64", [3 * i for i in items]),
        ("genres", "BYTES", [genre for of_item in genres for genre in of_item]),
        ("genres.lengths", "INT32", [len(of_item) for of_item in genres]),
    ]
    if num_candidates is not None:
        columns.append(("num_candidates", "INT32", counts))
    return {"inputs": [{"name": n, "datatype": t, "shape": [len(data)], "data": data} for n, t, data in columns]}


def typed_request() -> dict[str, Any]:
    """Return the same request for one user as a person types it."""
    return {
        "user": {"age": 30, "user_id": 7, "gender": "F", "occupation": "student", "liked_items": [0, 1]},
        "items": [
            {"item_id": 0, "release_year": 1980, "genres": ["Drama"]},
            {"item_id": 3, "release_year": 1981, "genres": ["Drama", "Comedy"]},
            {"item_id": 6, "release_year": 1982, "genres": ["Drama"]},
        ],
    }


def offline_scores(
    bundle: Path, request: dict[str, Any], *, without: Collection[int] = (), precision: Precision = "fp32"
) -> Scores:
    """Return the unsharded model's scores by task, some shards of the bundle being away."""
    scorer = UnshardedScorer(bundle, BundleManifest.read(bundle), precision=precision)
    batches = encode_request(tensors_from_json(request), scorer.manifest.feature_schema)
    scores_NT = scorer.scores(batches, without=without)
    return {task: scores_NT[:, column].tolist() for column, task in enumerate(scorer.manifest.tasks)}


def grpc_inputs(body: dict[str, Any]) -> list[tritonclient.grpc.InferInput]:
    """Return a JSON request's inputs as tritonclient's for gRPC, in raw form."""
    inputs = []
    for item in body["inputs"]:
        tensor = tritonclient.grpc.InferInput(item["name"], item["shape"], item["datatype"])
        tensor.set_data_from_numpy(np.array(item["data"], dtype=NUMPY_TYPES[item["datatype"]]))
        inputs.append(tensor)
    return inputs


def http_inputs(body: dict[str, Any], *, binary: bool) -> list[tritonclient.http.InferInput]:
    """Return a JSON request's inputs as tritonclient's for HTTP."""
    inputs = []
    for item in body["inputs"]:
        tensor = tritonclient.http.InferInput(item["name"], item["shape"], item["datatype"])
        values = np.array(item["data"], dtype=NUMPY_TYPES[item["datatype"]])
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    return inputs


def infer_by_grpc(address: str, body: dict[str, Any], **options: Any) -> Scores:
    """Return the scores of a request, by task."""
    with tritonclient.grpc.InferenceServerClient(address) as client:
        result = client.infer("students", grpc_inputs(body), **options)
    return {output.name: result.as_numpy(output.name).tolist() for output in result.get_response().outputs}


def never(is_over: Event) -> Iterator[bytes]:
    """Yield no message until that is over."""
    is_over.wait()
    yield from ()


def scores_of(answer: dict[str, Any]) -> Scores:
    """Return the scores of an answer in JSON form, by task."""
    return {output["name"]: output["data"] for output in answer["outputs"]}
