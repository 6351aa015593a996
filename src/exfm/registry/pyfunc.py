"""What MLflow loads of a registered bundle by `mlflow.pyfunc.load_model`: the scorer of one process, for DataFrames."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from exfm.models.scoring import UnshardedScorer
from exfm.registry.table_scores import table_scores


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
        names = [name for name in manifest.feature_schema.feature_names() if name in model_input.columns]
        scores_BT = table_scores(self._scorer, pa.Table.from_pandas(model_input[names], preserve_index=False))
        scored = pa.table({task: scores_BT[:, column] for column, task in enumerate(manifest.tasks)})
        return scored.to_pandas().set_axis(model_input.index)


def _load_pyfunc(path: str) -> OfflineScorer:
    """Return what scores by the bundle in a folder: MLflow calls it by this name."""
    return OfflineScorer(Path(path))
