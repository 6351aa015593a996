"""Tables by name in any store, and processes that work on them."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exfm.artifact.stores import join
from seaweed import running_seaweed


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a folder that tables lie in: of this machine, or below the bucket that a parameter names."""
    kind = getattr(request, "param", "disk")
    return str(tmp_path) if kind == "disk" else join(request.getfixturevalue(kind), "run")


@pytest.fixture(scope="session")
def seaweed_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_seaweed(tmp_path_factory.mktemp("seaweed")) as endpoint:
        yield endpoint


@pytest.fixture
def seaweed(seaweed_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the URL of an empty bucket of SeaweedFS that the environment gives access to."""
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweed_endpoint)
    S3FileSystem.clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex}"
    S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def work() -> Any:
    """Return what runs the program work.py, and returns its findings."""

    def run(*arguments: object) -> Any:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("work.py")), *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
