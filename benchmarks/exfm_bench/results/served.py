"""What serving a foundation model would take, beside a vertical model: bytes, and time for one request's candidates."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from exfm.artifact.plan import Encoding
from exfm.config import Config
from exfm.events.examples import ExamplesManifest, read_frame
from exfm.features.batch import NetBatches, encode_examples
from exfm.features.table import raw_columns
from exfm.models.ranking import RankingModel
from exfm.planning.statistics import statistics_of_schema
from exfm.training.checkpoint import load_weights
from exfm.training.manifest import ModelManifest

CANDIDATES = 512
"""Candidates of a request."""

NUM_TURNS, NUM_WARMUP = 200, 10
"""Turns that count, and those before; in each, every model scores the candidates once."""

DENSE_BYTES = 4
"""Bytes of a number outside tables."""


class Served(Config):
    """A model as it would be served."""

    name: str
    table_bytes: int
    """With the encoding that bundles have by default."""
    dense_bytes: int
    score_ms: float
    """Median time for CANDIDATES examples, in one process with one thread."""


def measure_served(folders: Sequence[Path], *, examples: Path, encoding: Encoding) -> list[Served]:
    """Return what each trained model takes, by its last snapshot and by the examples' first rows."""
    manifests = [ModelManifest.read(folder) for folder in folders]
    models = [_loaded(folder, manifest) for folder, manifest in zip(folders, manifests, strict=True)]
    batches = [_candidates(examples, model) for model in models]
    torch.set_num_threads(1)
    taken_s: list[list[float]] = [[] for _ in models]
    for turn in range(NUM_WARMUP + NUM_TURNS):
        for model, of_model, of_times in zip(models, batches, taken_s, strict=True):
            began_s = time.perf_counter()
            model.probabilities(of_model)
            if turn >= NUM_WARMUP:
                of_times.append(time.perf_counter() - began_s)
    found = []
    for manifest, model, times_s in zip(manifests, models, taken_s, strict=True):
        in_tables = sum(table.rows * table.dim for table in model.schema.tables)
        found.append(
            Served(
                name=manifest.name,
                table_bytes=statistics_of_schema(model.schema, candidates_mean=CANDIDATES).size_bytes(encoding),
                dense_bytes=DENSE_BYTES * (manifest.num_parameters - in_tables),
                score_ms=1e3 * float(np.median(times_s)),
            )
        )
    return found


def _loaded(folder: Path, manifest: ModelManifest) -> RankingModel:
    model = RankingModel(manifest.feature_schema, manifest.model)
    load_weights(model, folder / manifest.snapshots[-1].folder)
    return model


def _candidates(examples: Path, model: RankingModel) -> NetBatches:
    manifest = ExamplesManifest.read(examples)
    window = next(one for one in manifest.windows if len(read_frame((examples,), one, manifest.feature_schema)))
    frame = read_frame((examples,), window, manifest.feature_schema).head(CANDIDATES)
    return encode_examples(raw_columns(frame.to_arrow(), model.schema), model.schema)
