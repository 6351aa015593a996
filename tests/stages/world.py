"""Synthetic logs with teachers whose worth is known: their pseudo-labels are made of the planted truth."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from exfm.artifact.manifest import Window
from exfm.das.closing import LogState
from exfm.das.joining import example_table
from exfm.das.log_tables import Das
from exfm.das.stages import ingest, join, label
from exfm.events.examples import Examples, Floats, examples_of
from exfm.events.schemas import SYNTHETIC
from exfm.events.synthetic import START_S, SyntheticSource
from exfm.metrics.quality import Quality, quality
from exfm.schema import Schema, pseudo_age_column, pseudo_label_column
from exfm.training.config import TrainingConfig
from exfm.training.learner import Learner
from exfm.training.loop import walk_windows
from exfm.training.trainer import Trainer

WINDOW_S = 43_200
TEACHERS = ("good", "doubled", "stale", "noise", "blurred")


@dataclass(frozen=True)
class World:
    """A log's windows, with pseudo-labels of all teachers for the one task `click`."""

    schema: Schema
    windows: tuple[Window, ...]
    examples: tuple[Examples, ...]

    def walk(self, learner: Learner, *, batch_size: int = 128) -> Floats:
        """Test, then train, a learner on all windows; return all probabilities, [N, T]."""
        scores: list[Floats] = []
        walk_windows(
            Trainer(learner, TrainingConfig(batch_size=batch_size, learning_rate=0.003)),
            self.windows,
            read=dict(zip(self.windows, self.examples, strict=True)).__getitem__,
            label_delay=3_600,
            known_until=self.windows[-1].end,
            on_tested=lambda window, examples, scores_BT: scores.append(scores_BT),
            on_trained=lambda window, examples: None,
        )
        return np.concatenate(scores)

    def quality(self, scores_NT: Floats, *, warmup_windows: int = 4) -> Quality:
        """Return the quality of a walk's probabilities after the first windows."""
        first = sum(len(examples) for examples in self.examples[:warmup_windows])
        labels, weights = (
            np.concatenate([getattr(examples, name)[:, 0] for examples in self.examples])[first:]
            for name in ("labels_BT", "weights_BT")
        )
        return quality(scores_NT[first:, 0], labels, weights)


def make_world(root: Path, *, num_impressions: int, num_windows: int, seed: int) -> World:
    """Return a log that was ingested, labelled and joined, and then taught."""
    schema = Schema.read(SYNTHETIC).select(tasks=("click",))
    source = SyntheticSource(
        num_impressions=num_impressions, num_users=300, num_ads=150, duration_s=num_windows * WINDOW_S, seed=seed
    )
    das = Das(root=str(root), schema=schema, window_length=WINDOW_S)
    known_until = das.ticks(START_S + source.duration_s + schema.labels[0].attribution_window)
    for _ in chain(ingest(das, source, until=known_until), label(das), join(das, [])):
        pass
    table, rng = example_table(LogState.of(das)), np.random.default_rng(seed)
    taught = [_taught(table.read(window), window, rng) for window in table.windows]
    examples = tuple(examples_of(frame, schema, teachers=TEACHERS) for frame in taught)
    return World(schema=schema, windows=table.windows, examples=examples)


def _taught(frame: pl.DataFrame, window: Window, rng: np.random.Generator) -> pl.DataFrame:
    truth_N = frame["truth_click"].to_numpy()
    good_N = _blurred(truth_N, rng, by=0.3)
    probabilities = {
        "good": good_N,
        "doubled": np.minimum(2 * good_N, 1),
        "stale": _blurred(truth_N, rng, by=1.0),
        "noise": rng.permutation(good_N),
        "blurred": _blurred(truth_N, rng.spawn(1)[0], by=2.5),
    }
    since_start_N = frame["event_time_s"].to_numpy() - window.start
    columns = [
        column
        for teacher in TEACHERS
        for column in (
            pl.Series(pseudo_label_column(teacher, "click"), probabilities[teacher]),
            pl.Series(pseudo_age_column(teacher), since_start_N + (4 * WINDOW_S if teacher == "stale" else 0)),
        )
    ]
    return frame.with_columns(columns)


def _blurred(
    probabilities_N: npt.NDArray[np.float64], rng: np.random.Generator, *, by: float
) -> npt.NDArray[np.float64]:
    logits_N = np.log(probabilities_N / (1 - probabilities_N)) + by * rng.standard_normal(len(probabilities_N))
    blurred_N: npt.NDArray[np.float64] = 1 / (1 + np.exp(-logits_N))
    return blurred_N
