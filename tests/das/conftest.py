"""A tiny foundation model, trained once."""

from pathlib import Path

import pytest
from taught_log import train, write_week

from exfm.artifact.storage import Ref


@pytest.fixture(scope="session")
def foundation(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    """Return a foundation model that learned the whole week."""
    folder: Path = tmp_path_factory.mktemp("week")
    return train(write_week(folder / "log"), folder)
