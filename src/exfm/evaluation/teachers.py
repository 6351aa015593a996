"""Teachers of a comparison: the run's own foundation models, and variants of one.

Legend: B examples, T tasks.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import expit, logit

from exfm.artifact.manifest import Window
from exfm.errors import ConfigError
from exfm.evaluation.config import TeacherVariant
from exfm.events.examples import Examples, PseudoLabels
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.ranking import RankingModel
from exfm.training.checkpoint import load_weights
from exfm.training.manifest import ModelManifest, Snapshot

Source = Callable[[Window, pl.DataFrame], Mapping[str, PseudoLabels]]
"""Scores a window's rows for some variants, by name, before noise, factor and shuffling."""


class Teachers:
    """All teachers of one vertical model in a comparison."""

    def __init__(
        self, own: Sequence[str], variants: Sequence[TeacherVariant] = (), *, sources: Sequence[Source] = ()
    ) -> None:
        """Compare the foundation models `own`, all at once, with variants of their pseudo-labels.

        A variant that no source knows changes the pseudo-labels of `own`.
        """
        self.own = "+".join(own)
        """The name of the run's own teacher."""
        self.taught_by = {self.own: tuple(own)} | {variant.name: (variant.name,) for variant in variants}
        """The keys of each teacher's pseudo-labels in the examples."""
        self._variants, self._sources = variants, sources

    def add_to(self, examples: Examples, window: Window, frame: pl.DataFrame) -> dict[str, PseudoLabels]:
        """Return the pseudo-labels of the examples in a frame's rows, with those of all variants."""
        found: dict[str, PseudoLabels] = {}
        for source in self._sources:
            found |= source(window, frame)
        own = self.pseudo_labels(examples, self.own)
        return dict(examples.pseudo) | {
            variant.name: changed(found.get(variant.name, own), variant, window) for variant in self._variants
        }

    def pseudo_labels(self, examples: Examples, teacher: str) -> PseudoLabels:
        """Return a teacher's pseudo-labels: the mean of several foundation models', as their losses add up."""
        every = [examples.pseudo[key] for key in self.taught_by[teacher]]
        return PseudoLabels(
            probabilities_BT=np.mean([pseudo.probabilities_BT for pseudo in every], axis=0),
            ages_B=np.max([pseudo.ages_B for pseudo in every], axis=0),
        )


class OldSnapshots:
    """The run's foundation model as it was some windows before: a `Source` for variants with an age."""

    def __init__(self, variants: Sequence[TeacherVariant], folder: Path, *, tasks: Sequence[str]) -> None:
        """Score by the snapshots in a foundation model's folder.

        Raises: ConfigError if a snapshot is not there that a variant needs.
        """
        self._folder, self._manifest = folder, ModelManifest.read(folder)
        self._variants = variants
        self._columns = [self._manifest.feature_schema.tasks().index(task) for task in tasks]
        self._models = {
            variant.name: RankingModel(self._manifest.feature_schema, self._manifest.model) for variant in variants
        }
        self._loaded: dict[str, Snapshot] = {}
        for variant in variants:
            for window in self._manifest.windows:
                older_snapshot(self._manifest, window, variant)

    def __call__(self, window: Window, frame: pl.DataFrame) -> dict[str, PseudoLabels]:
        """Return what each variant says of a window's rows."""
        schema = self._manifest.feature_schema
        batches = encode_examples(raw_columns(frame.to_arrow(), schema), schema)
        times_B = frame[schema.event_time.column].to_numpy()
        found = {}
        for variant in self._variants:
            snapshot = older_snapshot(self._manifest, window, variant)
            if snapshot is None:
                found[variant.name] = no_pseudo_labels(len(frame), len(self._columns))
                continue
            model = self._models[variant.name]
            if self._loaded.get(variant.name) != snapshot:
                load_weights(model, self._folder / snapshot.folder)
                self._loaded[variant.name] = snapshot
            found[variant.name] = PseudoLabels(
                probabilities_BT=model.probabilities(batches)[:, self._columns],
                ages_B=(times_B - snapshot.known_until).astype(np.float64),
            )
        return found


def older_snapshot(manifest: ModelManifest, window: Window, variant: TeacherVariant) -> Snapshot | None:
    """Return the snapshot that a foundation model had `age` windows before the one that scores a window.

    None: it had learned nothing by then.

    Raises: ConfigError if it had learned a window, but kept no snapshot of that.
    """
    now = manifest.snapshot_for(window.start)
    if now is None:
        return None
    before = now.window - variant.age
    found = max((s for s in manifest.snapshots if s.window <= before), key=lambda s: s.window, default=None)
    learned = [
        quality.window
        for quality in manifest.qualities
        if quality.window <= before and any(of_task.num_examples for of_task in quality.tasks.values())
    ]
    if learned and (found is None or found.window < learned[-1]):
        raise ConfigError(
            f"comparison.teachers: {variant.name!r} of age {variant.age} scores window {window.index} by foundation "
            f"model {manifest.name!r} as it was after window {learned[-1]}, of which there is no snapshot; set "
            "its snapshot_every to 1 and run again"
        )
    return found


def changed(pseudo: PseudoLabels, variant: TeacherVariant, window: Window) -> PseudoLabels:
    """Return a window's pseudo-labels as a variant says them: with noise, times a factor, shuffled."""
    random = np.random.default_rng((variant.seed, window.index))
    probabilities_BT, ages_B = pseudo.probabilities_BT, pseudo.ages_B
    if variant.noise:
        noise_BT = random.normal(scale=variant.noise, size=probabilities_BT.shape).astype(np.float32)
        probabilities_BT = expit(logit(probabilities_BT) + noise_BT)
    probabilities_BT = (np.float32(variant.factor) * probabilities_BT).clip(max=np.float32(1))
    if variant.shuffled:
        order_B = random.permutation(len(probabilities_BT))
        return PseudoLabels(probabilities_BT=probabilities_BT[order_B], ages_B=ages_B[order_B])
    return PseudoLabels(probabilities_BT=probabilities_BT, ages_B=ages_B)


def no_pseudo_labels(num_examples: int, num_tasks: int) -> PseudoLabels:
    """Return what a teacher says that has learned nothing yet."""
    return PseudoLabels(
        probabilities_BT=np.full((num_examples, num_tasks), np.nan, dtype=np.float32),
        ages_B=np.full(num_examples, np.nan),
    )
