"""What serving a foundation model would take, beside a vertical model: bytes, and time for one request's candidates."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from exfm.artifact.plan import Encoding
from exfm.config import Config
from exfm.das.closing import LogState
from exfm.das.joining import example_table
from exfm.das.line_states import LineStates
from exfm.das.log_tables import Das
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.ranking import RankingModel
from exfm.planning.statistics import statistics_of_schema
from exfm.training.line import Line
from exfm.training.line_trainer import LineScorer

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


def measure_served(das: Das, lines: Sequence[Line], *, encoding: Encoding) -> list[Served]:
    """Return what each trained model takes, by its last state and by the first window's first rows."""
    state = LogState.of(das)
    examples = example_table(state)
    rows = examples.read(examples.windows[0]).head(CANDIDATES).to_arrow()
    batches = [encode_examples(raw_columns(rows, line.schema), line.schema) for line in lines]
    scorers = [LineScorer(line.schema, line.model) for line in lines]
    folders = [line.folder(das.root, LineStates(state, line).learned[-1]) for line in lines]
    torch.set_num_threads(1)
    taken_s: list[list[float]] = [[] for _ in lines]
    for turn in range(NUM_WARMUP + NUM_TURNS):
        for scorer, of_model, folder, of_times in zip(scorers, batches, folders, taken_s, strict=True):
            began_s = time.perf_counter()
            scorer.probabilities(of_model, folder)
            if turn >= NUM_WARMUP:
                of_times.append(time.perf_counter() - began_s)
    return [_served(line, times_s, encoding) for line, times_s in zip(lines, taken_s, strict=True)]


def _served(line: Line, times_s: Sequence[float], encoding: Encoding) -> Served:
    model = RankingModel(line.schema, line.model)
    in_tables = sum(table.rows * table.dim for table in model.schema.tables)
    return Served(
        name=line.name,
        table_bytes=statistics_of_schema(model.schema, candidates_mean=CANDIDATES).size_bytes(encoding),
        dense_bytes=DENSE_BYTES * (model.num_parameters() - in_tables),
        score_ms=1e3 * float(np.median(times_s)),
    )
