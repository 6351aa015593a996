"""A run against an MLflow server as teams have it: on PostgreSQL, with artifacts in S3 and basic authentication."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from exfm.events.schemas import SYNTHETIC
from exfm.schema import Schema
from rig.debian import install_packages
from seaweed import answers, free_ports, running_seaweed

pytestmark = pytest.mark.cluster  # as root, on Debian

S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
SMALL = {"network": {"bottom_units": [4], "num_cross_layers": 1, "cross_rank": 4, "top_units": [8]}}
MODEL = {"model": SMALL, "training": {"batch_size": 128, "warmup_windows": 2}, "tasks": ["click"]}
STARTS_IN_S = 120


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Yield the URL of an empty database of PostgreSQL, which listens on a socket in its own folder only."""
    install_packages(("postgresql",))
    [programs] = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    folder = Path(tempfile.mkdtemp(prefix="exfm-postgres-"))
    shutil.chown(folder, "postgres", "postgres")
    as_postgres = ["runuser", "--user", "postgres", "--"]
    initdb = [*as_postgres, programs / "initdb", f"--pgdata={folder}/data", "--auth=trust", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True)
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*as_postgres, programs / "postgres", "-D", f"{folder}/data", *options], stdout=log, stderr=log
        )
        try:
            until_s = time.monotonic() + STARTS_IN_S
            while subprocess.run([programs / "pg_isready", f"--host={folder}"], capture_output=True).returncode:
                assert time.monotonic() < until_s, (folder / "log").read_text()
                time.sleep(0.1)
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            server.terminate()
            server.wait()
            shutil.rmtree(folder)


@dataclass(frozen=True)
class Tracking:
    """A server, and who may use it."""

    url: str
    endpoint: str
    """Of its artifacts' S3."""

    def environment(self, *, password: str = "correct horse") -> Mapping[str, str]:
        """Return what a client needs: no key of S3, because the server passes artifacts on."""
        user = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
        return {"MLFLOW_TRACKING_URI": self.url, **user}


@pytest.fixture(scope="module")
def tracking(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    """Yield a server that keeps runs in PostgreSQL and artifacts in SeaweedFS, and asks for a password."""
    folder = tmp_path_factory.mktemp("mlflow")
    [port] = free_ports(1)
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\nadmin_password = correct horse\n"
        f"database_uri = sqlite:///{folder}/users.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    (folder / "s3").mkdir()
    with running_seaweed(folder / "s3") as endpoint, (folder / "log").open("wb") as log:
        environment = S3_KEYS | {
            "AWS_ENDPOINT_URL": endpoint,
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests",
        }
        make_bucket = "import s3fs; s3fs.S3FileSystem().mkdir('mlflow')"
        subprocess.run([sys.executable, "-c", make_bucket], env=os.environ | environment, check=True)
        program = Path(sys.executable).with_name("mlflow")
        options = ["--host=127.0.0.1", f"--port={port}", "--workers=1", "--app-name=basic-auth"]
        options += [f"--backend-store-uri={postgres}", "--artifacts-destination=s3://mlflow/artifacts"]
        server = subprocess.Popen(
            [program, "server", *options], env=os.environ | environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            until_s = time.monotonic() + STARTS_IN_S
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until_s, (folder / "log").read_text()
                time.sleep(0.2)
            yield Tracking(f"http://127.0.0.1:{port}", endpoint)
        finally:
            os.killpg(server.pid, 15)
            server.wait()


def exfm(environment: Mapping[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command as one who has no key of S3."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    command = [sys.executable, "-c", "from exfm.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, env=own | dict(environment), capture_output=True, text=True, check=False, timeout=600
    )


@pytest.fixture(scope="module")
def root(tracking: Tracking, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of a run that registered its model there."""
    folder = tmp_path_factory.mktemp("run")
    source = {"kind": "synthetic", "num_impressions": 3000, "num_users": 100, "num_ads": 60, "duration_s": 432_000}
    settings = {
        "name": "small",
        "root": "out",
        "feature_schema": Schema.read(SYNTHETIC).select(tasks=("click",)).to_dict(),
        "source": source,
        "window_length": 43_200,
        "foundation_models": [{"name": "fm"} | MODEL],
        "vertical_models": [{"name": "search", "domains": ["search"]} | MODEL],
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    done = exfm(tracking.environment(), "run", "-c", folder / "run.yaml")
    assert done.returncode == 0, done.stderr
    assert not (folder / "out/registry").exists(), "the embedded registry is of no use here"
    return folder / "out"


def test_a_version_is_judged_scored_and_traced_there(tracking: Tracking, root: Path) -> None:
    environment = tracking.environment()
    promoted = exfm(environment, "promote", "search", "--root", root)
    assert "click: calibration error" in promoted.stdout + promoted.stderr
    scored = exfm(environment, "score", "models:/search@candidate", root / "query.json", "--root", root)
    assert scored.returncode == 0, scored.stderr
    traced = exfm(environment, "lineage", "models:/search@candidate", "--root", root)
    assert traced.stdout.startswith("search version 1 (candidate"), traced.stderr
    taught = exfm(environment, "lineage", "models:/fm/1", "--root", root)
    assert taught.stdout.startswith("fm version 1: foundation model"), taught.stderr


def test_runs_lie_in_postgresql_and_bundles_in_s3(tracking: Tracking, postgres: str, root: Path) -> None:
    import psycopg
    from s3fs import S3FileSystem

    with psycopg.connect(postgres.replace("+psycopg", "")) as connection:
        versions = connection.execute("SELECT name, version FROM model_versions").fetchall()
    assert sorted(versions) == [("fm", 1), ("search", 1)]
    store = S3FileSystem(key="test", secret="test", endpoint_url=tracking.endpoint)
    [manifest] = [name for name in store.find("mlflow/artifacts") if name.endswith("/bundle/manifest.json")]
    bundles = [path for path in (root / "bundle/search").iterdir() if path.is_dir()]
    assert store.cat_file(manifest) in [(bundle / "manifest.json").read_bytes() for bundle in bundles]


def test_a_wrong_password_is_one_line(tracking: Tracking, root: Path) -> None:
    refused = exfm(tracking.environment(password="wrong"), "promote", "search", "--root", root)
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert line.startswith(f"exfm: a request to the registry at {tracking.url} failed: ")
