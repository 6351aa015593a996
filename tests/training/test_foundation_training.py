"""What makes a foundation model another one, and what does not."""

from pathlib import Path

import pytest

from exfm.foundation.config import FoundationConfig, FoundationTrainingConfig
from exfm.foundation.line import foundation_line
from exfm.schema import Schema
from exfm.training.config import TrainingConfig

SCHEMA = Schema.read(Path(__file__).parents[2] / "examples/synthetic/schema.yaml")


def digest_of(**training: int | bool) -> str:
    config = FoundationConfig(training=FoundationTrainingConfig.model_validate(training))
    return foundation_line(config, SCHEMA).digest


@pytest.mark.parametrize("processes", [{"nodes": 2}, {"processes_per_node": 2}, {"gpu": True}])
def test_a_model_stays_the_same_whichever_processes_train_it(processes: dict[str, int]) -> None:
    assert digest_of(**processes) == digest_of()


def test_a_model_with_another_minibatch_is_another() -> None:
    assert digest_of(batch_size=64) != digest_of()


def test_what_is_left_of_the_settings_is_what_a_vertical_model_has() -> None:
    training = FoundationTrainingConfig(nodes=2, processes_per_node=3, batch_size=64)
    assert training.num_processes == 6
    assert training.alone == TrainingConfig(batch_size=64)
