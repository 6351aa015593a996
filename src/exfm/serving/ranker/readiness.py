"""A ranker's readiness: its shards must give the golden scores, those of the bundle's export."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE, BundleManifest
from exfm.artifact.manifest import read_json
from exfm.errors import (
    BundleError,
    DeadlineError,
    OverloadedError,
    ServingError,
    ShardUnavailableError,
    StorageError,
)
from exfm.features.oip import Tensor, tensors_from_json
from exfm.models.config import Precision
from exfm.serving.models.bundle_part import verify_files
from exfm.serving.requests.call import Numbers

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

SCORE_TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "bf16": 2e-2, "int8": 2e-2}
"""Largest difference of a served score from the golden one, by the precision of dense layers. In fp32 only the order
of additions differs; other precisions may differ as much as an encoding of tables."""
ATTEMPT_S = 8.0
"""Timeout of an attempt: the first request warms the servers up, which takes seconds on a busy machine."""
RETRY_S = 0.5
"""Pause between two attempts."""
LOG_EVERY_S = 10.0
"""Pause between two log lines about failed attempts."""


@dataclass(frozen=True)
class Golden:
    """A bundle's golden query: a request, and the scores that the bundle gave it at export."""

    tensors: Mapping[str, Tensor]
    scores: Mapping[str, Sequence[float]]
    """Scores of each task."""


def read_golden(folder: Path, manifest: BundleManifest) -> Golden | None:
    """Return a bundle's golden query from verified files, or None if it has none.

    Raises: BundleError.
    """
    if GOLDEN_REQUEST not in manifest.files:
        return None
    verify_files(folder, manifest, [GOLDEN_REQUEST, GOLDEN_RESPONSE])
    try:
        request, response = read_json(folder / GOLDEN_REQUEST), read_json(folder / GOLDEN_RESPONSE)
    except StorageError as error:
        raise BundleError(str(error)) from error
    scores = {output["name"]: output["data"] for output in response["outputs"]}
    return Golden(tensors=tensors_from_json(request), scores=scores)


def check_scores(
    found: Mapping[str, Numbers], *, expected: Mapping[str, Sequence[float]], precision: Precision
) -> float:
    """Return the largest difference of a score from the expected one, at most the tolerance of SCORE_TOLERANCES.

    Raises: ServingError, which names the first task with a larger difference.
    """
    largest, tolerance = 0.0, SCORE_TOLERANCES[precision]
    for task, expected_scores in expected.items():
        scores = found.get(task, np.empty(0, dtype=np.float32))
        if len(scores) != len(expected_scores):
            raise ServingError(
                f"task {task!r} of the golden query has {len(scores)} scores, expected {len(expected_scores)}: the "
                "servers do not serve the model that was exported; export and serve the bundle again"
            )
        differences = np.abs(np.asarray(scores, dtype=np.float64) - np.asarray(expected_scores))
        wrong = np.flatnonzero(~(differences <= tolerance))  # so that NaN is wrong
        if len(wrong):
            first = wrong[0]
            raise ServingError(
                f"task {task!r} of the golden query: candidate {first} is scored {scores[first]:.6f}, expected "
                f"{expected_scores[first]:.6f} to {tolerance:g} ({len(wrong)} of {len(scores)} scores differ): "
                "the servers do not serve the model that was exported; export and serve the bundle again"
                + ("" if precision == "fp32" else f", or set dense_precision to 'fp32' (it is {precision!r})")
            )
        largest = max(largest, float(differences.max(initial=0.0)))
    return largest


async def until_reached(attempt: Callable[[], Awaitable[Found]]) -> Found:
    """Return the result of the first attempt that reaches all shards; failed attempts are logged now and then.

    Raises: what an attempt raises for another reason.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    next_line_s = began_s
    while True:
        try:
            return await attempt()
        except (ShardUnavailableError, DeadlineError, OverloadedError) as error:
            if loop.time() >= next_line_s:
                logger.info("not ready after %.0f s: %s", loop.time() - began_s, error)
                next_line_s = loop.time() + LOG_EVERY_S
        await asyncio.sleep(RETRY_S)
