"""A request in a file answered by a bundle in one process: the same JSON that a ranker answers with."""

import json
from pathlib import Path
from typing import Any

from exfm.errors import RequestError
from exfm.features.oip import answer_to_json, requested_outputs, require_numbers, tensors_from_json
from exfm.features.request import encode_request
from exfm.features.typed_request import to_inputs
from exfm.models.scoring import UnshardedScorer


def answer_request(folder: Path, query: Path) -> dict[str, Any]:
    """Return a bundle's answer to a request in a file, in the Open Inference Protocol's JSON form.

    A typed request is accepted, too.

    Raises: BundleError; RequestError if the file is missing, is not JSON or is not a request of this model, or if a
    score is not a number.
    """
    scorer = UnshardedScorer.load(folder)
    try:
        body = json.loads(query.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{query}: cannot be read ({error.strerror}); name a file with a request in JSON") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{query}: cannot be read as JSON: {error}") from error
    if isinstance(body, dict):
        body = to_inputs(body, scorer.manifest.feature_schema)
    tensors = tensors_from_json(body)
    tasks = requested_outputs(body, scorer.manifest.tasks)
    scores_NT = scorer.scores(encode_request(tensors, scorer.manifest.feature_schema))
    require_numbers(dict(zip(scorer.manifest.tasks, scores_NT.T, strict=True)))
    columns = [scorer.manifest.tasks.index(task) for task in tasks]
    return answer_to_json(
        model_name=scorer.manifest.name,
        model_version=scorer.manifest.bundle_id,
        request_id=body.get("id", ""),
        tasks=tasks,
        scores_NT=scores_NT[:, columns],
    )
