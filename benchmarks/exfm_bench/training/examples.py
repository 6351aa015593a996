"""The examples that all trainers learn, on disk as each of them reads it.

Ids are row numbers for other trainers, whose preparation of data is not timed. exfm hashes ids itself.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from exfm.artifact.manifest import Window
from exfm.events.examples import label_column
from exfm.schema import NETS, Schema
from exfm_bench.training.config import TrainBenchConfig

TASK = "click"

PEERS_FILE = "examples.npz"

WINDOW_S = 3600
"""Length of a window; labels are known when it ends."""


def write_examples(config: TrainBenchConfig, folder: Path) -> None:
    """Write a Parquet file for each window, and the same examples into PEERS_FILE."""
    generator = np.random.default_rng(config.seed)
    ids_FB = generator.integers(config.rows, size=(config.num_tables, config.num_examples))
    labels_B = (generator.random(config.num_examples) < 0.25).astype(np.int64)
    names, size = feature_names(config), config.batches * config.batch_size
    for window in windows_of(config):
        part = slice(window.index * size, (window.index + 1) * size)
        _frame(names, ids_FB[:, part], labels_B[part], window).write_parquet(exfm_file(folder, window))
    arrays: dict[str, Any] = {**dict(zip(names, ids_FB, strict=True)), TASK: labels_B}
    np.savez(folder / PEERS_FILE, **arrays)


def exfm_file(folder: Path, window: Window) -> Path:
    """Return the Parquet file with a window's examples."""
    return folder / f"exfm-{window.index:05d}.parquet"


def feature_names(config: TrainBenchConfig) -> list[str]:
    """Return the features' names, which are the tables' too."""
    return [f"f{number:03d}" for number in range(config.num_tables)]


def windows_of(config: TrainBenchConfig, *, times: int = 1) -> list[Window]:
    """Return the windows of a turn that learns all examples so many times; files are those of the first time."""
    return [
        Window(index=index, start=index * WINDOW_S, end=(index + 1) * WINDOW_S)
        for index in range(times * config.windows)
    ]


def schema_of(config: TrainBenchConfig, *, dim: int) -> Schema:
    """Return the schema: the first half of the features are the user's, the others the item's."""
    names = feature_names(config)
    return Schema.parse(
        {
            "impression_key": "impression_id",
            "event_time": {"column": "time_s"},
            "domain": "domain",
            "sparse": [
                {"name": name, "net": NETS[2 * place // len(names)], "table": name} for place, name in enumerate(names)
            ],
            "tables": [{"name": name, "rows": config.rows, "dim": dim} for name in names],
            "labels": [{"name": TASK, "feedback": TASK, "attribution_window": 0}],
        },
        source="the generated schema",
    )


def _frame(
    names: list[str], ids_FB: npt.NDArray[np.int64], labels_B: npt.NDArray[np.int64], window: Window
) -> pl.DataFrame:
    num_examples = len(labels_B)
    context = {
        "impression_id": window.index * num_examples + np.arange(num_examples),
        "time_s": window.start + np.arange(num_examples) * WINDOW_S // num_examples,
        "domain": ["all"] * num_examples,
        label_column(TASK): labels_B.astype(np.float32),
    }
    return pl.DataFrame(context | dict(zip(names, ids_FB, strict=True)))
