"""What MLflow loads of a registered bundle by `mlflow.pyfunc.load_model`: the scorer of one process, for DataFrames."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.scoring import UnshardedScorer

ROWS_AT_ONCE = 8_192
"""Rows that are scored at a time."""


class OfflineScorer:
    """Scores examples as the served bundle does."""

    def __init__(self, bundle: Path) -> None:
        self._scorer = UnshardedScorer.load(bundle)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Return a DataFrame with the probability of each task for each row of one; other columns are left alone.

        `params` are MLflow's, and not used.

        Raises: DataError if a feature is missing, or of a type that it cannot take.
        """
        manifest = self._scorer.manifest
        schema = manifest.feature_schema
        names = [name for name in schema.feature_names() if name in model_input.columns]
        table = pa.Table.from_pandas(model_input[names], preserve_index=False)
        parts = [table.slice(start, ROWS_AT_ONCE) for start in range(0, table.num_rows, ROWS_AT_ONCE)]
        scores = [self._scorer.scores(encode_examples(raw_columns(part, schema), schema)) for part in parts]
        scores_BT = np.concatenate(scores) if scores else np.empty((0, len(manifest.tasks)), np.float32)
        scored = pa.table({task: scores_BT[:, column] for column, task in enumerate(manifest.tasks)})
        return scored.to_pandas().set_axis(model_input.index)


def _load_pyfunc(path: str) -> OfflineScorer:
    """Return what scores by the bundle in a folder: MLflow calls it by this name."""
    return OfflineScorer(Path(path))
