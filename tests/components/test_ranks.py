"""A foundation model that several processes train: the same model, whichever their number, and after a crash."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import safetensors.torch

from exfm.das.advance import teach
from exfm.das.stages import ingest, label
from exfm.errors import StageError
from exfm.events.schemas import SYNTHETIC
from exfm.foundation.line import foundation_line
from exfm.schema import Schema
from exfm_components import local_ranks
from exfm_components.data_augmentation import das_of
from exfm_components.processes import arguments_of, train_apart
from exfm_components.run_config import RunConfig

pytest.importorskip("torchrec", reason="make install-distributed adds torchrec")
pytestmark = pytest.mark.slow

SMALL = {"network": {"bottom_units": [4], "num_cross_layers": 1, "cross_rank": 4, "top_units": [8]}}
FM = {"name": "fm", "model": SMALL, "training": {"batch_size": 65, "warmup_windows": 2, "processes_per_node": 2}}
CLOSE = 2e-6
"""Sums in another order."""


class Run:
    """A run of two tasks, whose log is labelled; its tables are pooled by sum and by mean."""

    def __init__(self, root: Path, **foundation: Any) -> None:
        self.foundation = FM | foundation
        self.settings = {
            "name": "small",
            "root": str(root),
            "feature_schema": Schema.read(SYNTHETIC).to_dict(),
            "source": {
                "kind": "synthetic",
                "num_impressions": 2000,
                "num_users": 100,
                "num_ads": 60,
                "duration_s": 432_000,
            },
            "window_length": 43_200,
            "foundation_models": [self.foundation],
            "vertical_models": [{"name": "search", "domains": ["search"]}],
        }
        self.config = RunConfig.parse(self.settings, source="the test's run")
        self.das = das_of(self.config)

    def begin(self) -> "Run":
        """Ingest and label the log."""
        for _ in (*ingest(self.das, self.config.source), *label(self.das)):
            pass
        return self

    def alone(self) -> Iterator[str]:
        """Train in this process, and yield what is done."""
        [foundation] = self.config.foundation_models
        line = foundation_line(foundation, self.config.feature_schema)
        for done in teach(self.das, foundation.name, line):
            yield f"{done.stage}: {done.item}"

    def by_ranks(self) -> list[str]:
        """Train by several processes, and return what they did."""
        told: list[str] = []
        self.train_apart(told.append)
        return told

    def train_apart(self, report: Callable[[str], None]) -> None:
        """Train by several processes."""
        [foundation] = self.config.foundation_models
        train_apart(self.config, foundation, report=report)

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the tensors of all states, by file."""
        files = sorted(Path(self.das.root).glob("models/fm/*/*/*.safetensors"))
        return {str(file.relative_to(self.das.root)): safetensors.torch.load_file(file) for file in files}

    def pseudo_labels(self) -> pl.DataFrame:
        """Return all pseudo-labels."""
        state = self.das.pseudo_labels(pl.Int64()).state()
        return state.read(state.files).sort("impression_id")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run whose foundation model one process trained."""
    run = Run(tmp_path_factory.mktemp("undisturbed")).begin()
    list(run.alone())
    return run


def require_equal(run: Run, expected: Run) -> None:
    """Check that two runs have the same model after each window, and the same pseudo-labels."""
    found, wanted = run.states(), expected.states()
    assert found.keys() == wanted.keys()
    for file, tensors in wanted.items():
        assert found[file].keys() == tensors.keys()
        for name, tensor in tensors.items():
            difference = (found[file][name].double() - tensor.double()).abs().max() if tensor.numel() else 0
            assert difference <= CLOSE, (file, name, difference)
    scores, expected_scores = run.pseudo_labels(), expected.pseudo_labels()
    assert scores.columns == expected_scores.columns
    for column in ("click", "conversion"):
        assert ((scores[column] - expected_scores[column]).abs().fill_null(0) <= CLOSE).all()
        assert scores[column].null_count() == expected_scores[column].null_count() < len(scores)


def test_two_processes_train_the_model_of_one(
    undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path).begin()
    told = run.by_ranks()
    assert sum(line.startswith("train-fm fm: ") for line in told) == len(undisturbed.states()) / 3
    require_equal(run, undisturbed)
    monkeypatch.setattr(local_ranks, "train_here", lambda *_, **__: pytest.fail("a process starts, and nothing is due"))
    assert run.by_ranks() == []


def test_a_model_goes_from_one_process_to_two_and_back(undisturbed: Run, tmp_path: Path) -> None:
    run = Run(tmp_path).begin()
    alone = run.alone()
    learned = [next(line for line in alone if line.startswith("train-fm")) for _ in range(2)]
    alone.close()
    with pytest.raises(StopIteration):
        run.train_apart(Stopping(after=2))
    assert len(run.states()) / 3 == len(learned) + 2
    for _ in run.alone():
        pass
    require_equal(run, undisturbed)


class Stopping:
    """Ends a run after it has learned some windows."""

    def __init__(self, *, after: int) -> None:
        self._left = after

    def __call__(self, line: str) -> None:
        self._left -= line.startswith("train-fm")
        if not self._left:
            raise StopIteration


def test_a_rank_that_is_killed_ends_the_run_and_the_next_goes_on(undisturbed: Run, tmp_path: Path) -> None:
    run, learned = Run(tmp_path).begin(), []

    def kill_one(line: str) -> None:
        learned.extend([line] if line.startswith("train-fm") else [])
        if len(learned) == 3:
            learned.clear()
            os.kill(rank_of(place=1), signal.SIGKILL)

    with pytest.raises(StageError, match="goes on from the last finished window"):
        run.train_apart(kill_one)
    assert 0 < len(run.states()) < len(undisturbed.states())
    assert run.by_ranks()
    require_equal(run, undisturbed)


def rank_of(*, place: int) -> int:
    """Return the process id of one of the ranks that this process started."""
    alive = [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    ranks = [one for one in alive if "exfm_components.rank" in one.cmdline()]
    [pid] = [one.pid for one in ranks if one.environ().get("RANK") == str(place)]
    return pid


def test_an_error_of_the_leader_is_the_runs(tmp_path: Path) -> None:
    run = Run(
        tmp_path, training=FM["training"] | {"learning_rate": 1.0}, model=SMALL | {"tables": {"learning_rate": 10.0}}
    ).begin()
    with pytest.raises(StageError, match="training diverged in window") as raised:
        run.by_ranks()
    assert raised.value.exit_code == 2


def test_processes_without_a_gpu_say_so(tmp_path: Path) -> None:
    run = Run(tmp_path, training=FM["training"] | {"gpu": True}).begin()
    with pytest.raises(StageError, match=r"training\.gpu is true, but torch .* finds 0 GPUs for 2 processes") as raised:
        run.by_ranks()
    assert raised.value.exit_code == 2


def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    run = Run(tmp_path).begin()
    [foundation] = run.config.foundation_models
    program = (
        "import sys; from exfm_components.local_ranks import train_here; from exfm_components.rank import *; "
        "given = json.loads(sys.argv[1]); "
        "train_here(RunConfig.parse(given['run'], source=''), "
        "FoundationConfig.parse(given['foundation_model'], source=''), report=lambda text: print(text, flush=True))"
    )
    command = [sys.executable, "-c", program, arguments_of(run.config, foundation)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("pseudo-label fm")
        ranks = [rank_of(place=place) for place in (0, 1)]
        process.kill()
    give_up_s = time.monotonic() + 10
    while any(map(psutil.pid_exists, ranks)):
        assert time.monotonic() < give_up_s, "a rank outlives what started it"
        time.sleep(0.1)
