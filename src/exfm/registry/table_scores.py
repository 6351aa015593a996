"""What a bundle scores the rows of a table."""

import numpy as np
import pyarrow as pa

from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.dense_part import Scores
from exfm.models.scoring import UnshardedScorer

ROWS_AT_ONCE = 8_192
"""Rows that are scored at a time."""


def table_scores(scorer: UnshardedScorer, rows: pa.Table) -> Scores:
    """Return the probability of each task for each row, an example or a candidate of a request; shape [N, T].

    Raises: DataError if a feature is missing, or of another type.
    """
    schema = scorer.manifest.feature_schema
    parts = [rows.slice(start, ROWS_AT_ONCE) for start in range(0, len(rows), ROWS_AT_ONCE)]
    scores = [scorer.scores(encode_examples(raw_columns(part, schema), schema)) for part in parts]
    return np.concatenate(scores) if scores else np.empty((0, len(scorer.manifest.tasks)), np.float32)
