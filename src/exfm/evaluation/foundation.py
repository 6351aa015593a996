"""Foundation models of other sizes, trained for a comparison on all domains' examples, as the run's own was.

Legend: B examples, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from exfm.artifact.manifest import Window
from exfm.errors import DataError
from exfm.evaluation.comparison import SizedFoundationModel
from exfm.evaluation.config import TeacherVariant
from exfm.evaluation.teachers import no_pseudo_labels
from exfm.evaluation.timed import TimedTrainer
from exfm.events.examples import Examples, ExampleTable, Floats, PseudoLabels
from exfm.models.config import ModelConfig
from exfm.models.ranking import RankingModel
from exfm.schema import score_column
from exfm.training.data import Data
from exfm.training.learner import LabelLearner
from exfm.training.loop import OnWindow, walk_windows
from exfm.training.manifest import ModelManifest
from exfm.training.trainer import Trainer


@dataclass(frozen=True)
class Trained:
    """A foundation model of another size: what it cost, and what it predicted of each window before it learned it."""

    model: SizedFoundationModel
    scores: Mapping[int, pl.DataFrame]
    """The impressions' keys, and a probability for each task, by window. Windows before the first known label are
    missing."""
    known_until: Mapping[int, int]
    """When the last label that the model had learned was known, in event time, by window."""


class SizedFoundations:
    """A `Source` of pseudo-labels for variants with a size: each was made by a model that knew earlier labels only."""

    def __init__(
        self,
        variants: Sequence[TeacherVariant],
        trained: Mapping[float, Trained],
        *,
        data: Data,
    ) -> None:
        self._trained = {variant.name: trained[variant.size] for variant in variants}
        self._schema = data.schema

    def __call__(self, window: Window, frame: pl.DataFrame) -> dict[str, PseudoLabels]:
        """Return what each variant says of a window's rows."""
        return {name: self._of(trained, window, frame) for name, trained in self._trained.items()}

    def _of(self, trained: Trained, window: Window, frame: pl.DataFrame) -> PseudoLabels:
        tasks, key = self._schema.tasks(), self._schema.impression_key
        if window.index not in trained.scores:
            return no_pseudo_labels(len(frame), len(tasks))
        rows = frame.select(key).join(trained.scores[window.index], on=key, how="left", maintain_order="left")
        times_B = frame[self._schema.event_time.column].to_numpy()
        return PseudoLabels(
            probabilities_BT=rows.select(map(score_column, tasks)).to_numpy(),
            ages_B=(times_B - trained.known_until[window.index]).astype(np.float64),
        )


def train_sizes(
    foundation: ModelManifest,
    models: Mapping[float, ModelConfig],
    *,
    examples: ExampleTable,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> dict[float, Trained]:
    """Train models like a foundation model, one for each size, in one walk over the examples.

    Raises: StorageError if a file is missing or damaged; DataError for unusable examples, or if training diverged.
    """
    torch.set_num_threads(foundation.training.torch_threads)
    data = Data(examples, foundation.feature_schema)
    sizes = _Sizes(foundation, models)
    kept: dict[float, dict[int, pl.DataFrame]] = {size: {} for size in models}
    known_until: dict[int, int] = {}
    last_known: int | None = None
    num_tested = 0

    def keep(window: Window, examples: Examples, scores: Mapping[float, Floats]) -> None:
        nonlocal num_tested
        if last_known is not None:
            known_until[window.index] = last_known
        for size, scores_BT in scores.items():
            if not np.isfinite(scores_BT).all():
                raise DataError(
                    f"foundation model of size {size:g}: scores of window {window.index} are no numbers: training "
                    "diverged; leave this size out of comparison.teachers, or lower its training.learning_rate"
                )
            if last_known is not None:
                columns = dict(zip(map(score_column, data.schema.tasks()), scores_BT.T, strict=True))
                kept[size][window.index] = pl.DataFrame({data.schema.impression_key: examples.keys, **columns})
        num_tested += 1
        on_window(num_tested, len(data.windows))

    def note_learned(window: Window, examples: Examples) -> None:
        nonlocal last_known
        last_known = window.end + data.label_delay

    walk_windows(
        sizes,
        data.windows,
        read=data.read,
        label_delay=data.label_delay,
        known_until=data.known_until,
        on_tested=keep,
        on_trained=note_learned,
        reads_ahead=False,  # trainers' CPU time is measured
    )
    return {
        size: Trained(
            SizedFoundationModel(size=size, cost=trainer.cost()),
            kept[size],
            known_until,
        )
        for size, trainer in sizes.trainers.items()
    }


class _Sizes:
    """Models of all sizes, which are tested and learn at the same times."""

    def __init__(self, foundation: ModelManifest, models: Mapping[float, ModelConfig]) -> None:
        self.trainers = {
            size: TimedTrainer(
                Trainer(LabelLearner(RankingModel(foundation.feature_schema, model)), foundation.training)
            )
            for size, model in models.items()
        }

    def test(self, examples: Examples) -> dict[float, Floats]:
        """Return what each predicts."""
        return {size: trainer.test(examples) for size, trainer in self.trainers.items()}

    def learn(self, window: Window, examples: Examples, scores: Mapping[float, Floats], /) -> None:
        """Let each model learn a window."""
        for size, trainer in self.trainers.items():
            trainer.learn(window, examples, scores[size])
