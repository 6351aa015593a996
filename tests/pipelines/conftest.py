"""A run that a cluster can do."""

import inspect
from functools import partial
from pathlib import Path

import pytest
import yaml

from exfm.events.schemas import MOVIELENS
from exfm_components.run_config import RunConfig, read_run_config


@pytest.fixture(autouse=True)
def _stacks_without_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """KFP reads its caller's name off the stack 144 times a pipeline, and with it the source of all of pytest's frames.

    A stack without source makes a pipeline here in as little time as outside pytest.
    """
    monkeypatch.setattr(inspect, "stack", partial(inspect.stack, 0))


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Return a small run, which names only places that pods can read."""
    file = tmp_path / "run.yaml"
    run = {
        "name": "ads",
        "root": "s3://models/ads",
        "feature_schema": str(MOVIELENS),
        "source": {"kind": "synthetic"},
        "window_length": 100,
        "vertical_models": [{"name": "search"}],
    }
    file.write_text(yaml.safe_dump(run), encoding="utf-8")
    return read_run_config(file)
