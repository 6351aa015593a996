"""A bundle's golden query: a request, and the scores that the bundle gives it in one process.

The scores are the bundle's and not the trained model's, so servers can be compared with them closely, in any encoding.

Legend: N items, T tasks.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE, BundleManifest
from exfm.artifact.manifest import write_json
from exfm.errors import BundleError
from exfm.features.oip import outputs_to_json, tensors_from_json
from exfm.features.request import encode_request
from exfm.models.scoring import UnshardedScorer

Floats = npt.NDArray[np.float32]

MAX_SHIFT = 0.02
"""Largest difference of a golden score from the trained model's; larger ones come from an encoding that is too coarse.
An estimate."""


def write_golden(folder: Path, manifest: BundleManifest, request: dict[str, Any], *, trained_NT: Floats) -> float:
    """Write the golden query of the bundle whose tables and network are in `folder`.

    Returns the largest difference of its scores from those of the trained model.

    Raises: BundleError if that is above MAX_SHIFT.
    """
    schema = manifest.feature_schema
    scores_NT = UnshardedScorer(folder, manifest).scores(encode_request(tensors_from_json(request), schema))
    shifts_NT = np.abs(scores_NT - trained_NT)
    if not (shifts_NT <= MAX_SHIFT).all():  # so that NaN is wrong
        item, task = np.unravel_index(shifts_NT.argmax(), shifts_NT.shape)
        raise BundleError(
            f"with tables in {manifest.plan.encoding}, task {schema.tasks()[task]!r} of the golden query scores "
            f"{scores_NT[item, task]:.4f} for item {item}, where the trained model scores "
            f"{trained_NT[item, task]:.4f}: more than {MAX_SHIFT:g} apart; set sharding.encoding to a finer "
            "one, or train again"
        )
    (folder / GOLDEN_REQUEST).parent.mkdir()
    write_json(folder / GOLDEN_REQUEST, request)
    write_json(folder / GOLDEN_RESPONSE, {"outputs": outputs_to_json(schema.tasks(), scores_NT)})
    return float(shifts_NT.max())
