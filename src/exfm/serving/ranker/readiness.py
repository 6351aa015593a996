"""When a ranker is ready: once its own shards give the scores that its bundle was exported with."""

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
"""How far a served score may be from the bundle's own, by the precision of dense layers. In fp32 sums of slices add up
in another order; in others as far as an encoding of tables may move it."""
ATTEMPT_S = 8.0
"""Time for one attempt: the first request warms servers up, and on a busy machine that takes seconds."""
RETRY_S = 0.5
"""Pause between two attempts."""
LOG_EVERY_S = 10.0
"""Pause between two lines of log about attempts that failed."""


@dataclass(frozen=True)
class Golden:
    """A bundle's golden request, and the scores that the bundle gave it at export."""

    tensors: Mapping[str, Tensor]
    scores: Mapping[str, Sequence[float]]
    """By task."""


def read_golden(folder: Path, manifest: BundleManifest) -> Golden | None:
    """Return a bundle's golden request, whose files were verified, or None if it has none.

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
    """Return the largest difference of a score from the expected one, which is no more than SCORE_TOLERANCES has.

    Raises: ServingError, which names the first task whose scores differ by more.
    """
    largest, tolerance = 0.0, SCORE_TOLERANCES[precision]
    for task, expected_scores in expected.items():
        scores = found.get(task, np.empty(0, dtype=np.float32))
        if len(scores) != len(expected_scores):
            raise ServingError(
                f"task {task!r} of the golden request has {len(scores)} scores, expected {len(expected_scores)}: the "
                "servers do not serve the model that was exported; export and serve the bundle again"
            )
        differences = np.abs(np.asarray(scores, dtype=np.float64) - np.asarray(expected_scores))
        wrong = np.flatnonzero(~(differences <= tolerance))  # so that NaN is wrong
        if len(wrong):
            first = wrong[0]
            raise ServingError(
                f"task {task!r} of the golden request: candidate {first} is scored {scores[first]:.6f}, expected "
                f"{expected_scores[first]:.6f} to {tolerance:g} ({len(wrong)} of {len(scores)} scores differ): "
                "the servers do not serve the model that was exported; export and serve the bundle again"
                + ("" if precision == "fp32" else f", or set dense_precision to 'fp32' (it is {precision!r})")
            )
        largest = max(largest, float(differences.max(initial=0.0)))
    return largest


async def until_reached(attempt: Callable[[], Awaitable[Found]]) -> Found:
    """Return what the first attempt gives that reaches all shards; the others are logged now and then.

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
                logger.info("not ready since %.0f s: %s", loop.time() - began_s, error)
                next_line_s = loop.time() + LOG_EVERY_S
        await asyncio.sleep(RETRY_S)
