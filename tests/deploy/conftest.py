from collections.abc import Callable

import pytest

from exfm.deploy import rollout
from exfm.deploy.config import DeployConfig
from exfm.deploy.release import Release


@pytest.fixture
def config() -> DeployConfig:
    return DeployConfig()


@pytest.fixture
def release() -> Callable[[int], Release]:
    """A function that returns a version of the model `students`, on two shards."""

    def make(version: int) -> Release:
        return Release(
            vm="students",
            version=version,
            bundle_id=f"{version:064x}",
            digest=f"{version + 1000:064x}",
            uri=f"s3://bucket/bundle/students-{version}",
            shard_bytes=(3 * 2**20, 2**20),
            replicas=(2, 1),
            lineage={"examples": "version 3", "fm_snapshot": "w00009"},  # not in the order of an annotation's JSON
        )

    return make


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated cluster needs no time between two looks at it."""
    monkeypatch.setattr(rollout, "POLL_S", 0.0)
    monkeypatch.setattr(rollout, "UNDO_TIMEOUT_S", 5.0)
