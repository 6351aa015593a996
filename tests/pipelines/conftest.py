"""A run that a cluster can do."""

from pathlib import Path

import pytest
import yaml

from exfm.events.schemas import MOVIELENS
from exfm_components.run_config import RunConfig, read_run_config


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
