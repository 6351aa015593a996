"""Teachers of a comparison: the run's own foundation models, and variants of one.

Legend: B examples, T tasks.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
from scipy.special import expit, logit

from exfm.artifact.manifest import Window
from exfm.artifact.stores import join
from exfm.errors import ConfigError
from exfm.evaluation.config import TeacherVariant
from exfm.events.examples import Examples, PseudoLabels
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.schema import pseudo_age_column
from exfm.training.line_trainer import LineScorer
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

    def __init__(
        self,
        variants: Sequence[TeacherVariant],
        manifest: ModelManifest,
        uri: str,
        *,
        teacher: str,
        tasks: Sequence[str],
    ) -> None:
        """Score by the snapshots of the foundation model at a URI, whose pseudo-labels are named as `teacher`'s.

        Raises: ConfigError if snapshots of the first windows were removed.
        """
        first, learned = manifest.snapshots[0].window, manifest.windows[0].index
        if first > learned:
            raise ConfigError(
                f"comparison.teachers: {variants[0].name!r} has an age, but foundation model {teacher!r} has no "
                f"snapshots from window {learned} to {first - 1} any more; leave it out, or set das.keep_snapshots to "
                "0, the default, and run again below another root"
            )
        self._variants, self._manifest, self._uri = variants, manifest, uri
        self._age = pseudo_age_column(teacher)
        schema = manifest.feature_schema
        self._columns = [schema.tasks().index(task) for task in tasks]
        self._scorers = {variant.name: LineScorer(schema, manifest.model) for variant in variants}

    def __call__(self, window: Window, frame: pl.DataFrame) -> dict[str, PseudoLabels]:
        """Return what each variant says of a window's rows.

        Raises: StorageError if a snapshot is missing or damaged.
        """
        schema = self._manifest.feature_schema
        batches = encode_examples(raw_columns(frame.to_arrow(), schema), schema)
        times = frame[schema.event_time.column]
        known_until = (times - frame[self._age]).drop_nulls()  # one time: a window is scored by one snapshot
        now = self._manifest.snapshot_for(known_until[0]) if len(known_until) else None
        found = {}
        for variant in self._variants:
            snapshot = older_snapshot(self._manifest, now, age=variant.age)
            if snapshot is None:
                found[variant.name] = no_pseudo_labels(len(frame), len(self._columns))
                continue
            folder = join(self._uri, snapshot.folder)
            found[variant.name] = PseudoLabels(
                probabilities_BT=self._scorers[variant.name].probabilities(batches, folder)[:, self._columns],
                ages_B=(times.to_numpy() - snapshot.known_until).astype(np.float64),
            )
        return found


def older_snapshot(manifest: ModelManifest, now: Snapshot | None, *, age: int) -> Snapshot | None:
    """Return the snapshot that a foundation model had `age` windows before another; None: it had learned nothing."""
    before = [older for older in manifest.snapshots if now and older.window <= now.window - age]
    return before[-1] if before else None


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
