"""python -m exfm_bench.training.ours: exfm's trainer, told when to learn."""

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import polars as pl

from exfm.artifact.manifest import Window
from exfm.events.examples import Examples, examples_of
from exfm.models.config import ModelConfig
from exfm.models.ranking import RankingModel
from exfm.training.config import TrainingConfig
from exfm.training.learner import LabelLearner
from exfm.training.reading import read_ahead
from exfm.training.trainer import Trainer
from exfm_bench.peers.turns import Settings, serve_turns
from exfm_bench.training.config import TrainBenchConfig
from exfm_bench.training.examples import exfm_file, schema_of, windows_of


def main() -> None:
    """Answer turns with the model and examples that the first argument's file names."""
    model = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    config = TrainBenchConfig.parse(model["config"], source=sys.argv[1])
    schema = schema_of(config, dim=model["dim"])
    files = windows_of(config)
    learner = LabelLearner(RankingModel(schema, ModelConfig(network=config.network, seed=config.seed)))
    trainer = Trainer(learner, TrainingConfig(batch_size=config.batch_size))

    def read(window: Window) -> Examples:
        file = files[window.index % len(files)]
        return examples_of(pl.read_parquet(exfm_file(Path(model["folder"]), file)), schema)

    @cache
    def in_memory() -> list[tuple[Window, Examples]]:
        return [(window, read(window)) for window in files]

    def train(settings: Settings) -> int:
        windows = windows_of(config, times=settings["times"])
        how, num_examples = settings["how"], 0
        walk: Iterator[tuple[Window, Examples]] = iter(in_memory()) if how == "memory" else read_ahead(windows, read)
        for window, examples in walk:
            if how == "test":
                trainer.learn(window, examples, trainer.test(examples))
            else:
                trainer.fit(examples)
            num_examples += len(examples)
        return num_examples

    serve_turns(train)


if __name__ == "__main__":
    main()
