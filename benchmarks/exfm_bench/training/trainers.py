"""Processes that train, exfm's and others', each told when to learn."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import distributions, version
from itertools import product
from pathlib import Path
from typing import Any

from exfm.artifact.manifest import write_json
from exfm.environment import compute_environment
from exfm.errors import ConfigError, StageError
from exfm.models.config import TablesConfig
from exfm.training.config import TrainingConfig
from exfm_bench import peers
from exfm_bench.training.config import TrainBenchConfig
from exfm_bench.training.examples import PEERS_FILE, TASK, feature_names

PROGRAMS = Path(peers.__file__).parent

EXFM, SAME, FROM_MEMORY, TESTED = "exfm", "exfm again (A/A)", "exfm, from memory", "exfm, test-then-train"
"""Ways in which exfm is measured: it reads and learns; the same; it learns what it read before; it reads, scores and
learns, as its stages do."""

OURS = (EXFM, SAME, FROM_MEMORY, TESTED)

FUXICTR, TORCHREC, TORCHREC_FP16 = "FuxiCTR", "torchrec", "torchrec, FP16 tables"

_HOW = {EXFM: "learn", SAME: "learn", FROM_MEMORY: "memory", TESTED: "test"}

_PACKAGES = {FUXICTR: ("fuxictr", "torch"), TORCHREC: ("torchrec", "fbgemm-gpu-cpu", "torch")}
"""Packages of a peer's environment, the peer's own first."""

_INSTALL = {
    FUXICTR: "{pip} install fuxictr torch",
    TORCHREC: "{pip} install torch==2.13.* fbgemm-gpu-cpu==1.8.0 tensordict torchmetrics==1.0.3 pyre-extensions iopath "
    "tqdm && {pip} install --no-deps torchrec==1.8.0",
}

_LOG_LINES_SHOWN = 8

Settings = Mapping[str, int | str]
"""Settings of a turn."""


@dataclass(frozen=True)
class Trainer:
    """A trainer that is measured."""

    name: str
    version: str
    command: tuple[str, ...]
    """Its program; the last argument, a file that says what it trains, is added."""
    settings: tuple[Settings, ...]
    """Settings of a turn, of which the fastest are taken."""
    precision: str = "FP32"
    """Numbers of tables, as torchrec names them."""


@dataclass(frozen=True)
class Turn:
    """What a trainer did when told to learn all examples."""

    num_examples: int
    seconds: float
    cpu_s: float
    peak_bytes: int
    """Most memory that its process has had resident since it started."""

    @property
    def seconds_per_example(self) -> float:
        """Return the time of a mean example."""
        return self.seconds / self.num_examples


class RunningTrainer:
    """A trainer's process, which is ready."""

    def __init__(self, trainer: Trainer, process: "subprocess.Popen[str]", log: Path) -> None:
        self._trainer, self._process, self._log = trainer, process, log
        self._answer()

    def turn(self, settings: Settings) -> Turn:
        """Have it learn all examples, and return what that took.

        Raises: StageError if it ended instead.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended, as its answer says
            self._process.stdin.write(json.dumps(settings) + "\n")
            self._process.stdin.flush()
        return Turn(**self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LOG_LINES_SHOWN:]
        how = f"{self._trainer.name} ended with exit code {self._process.wait()}; its last lines:"
        raise StageError("\n  ".join([how, *(lines or ["(none)"])]))


def our_trainers() -> list[Trainer]:
    """Return exfm's trainer in all ways in which it is measured."""
    command = (sys.executable, "-m", "exfm_bench.training.ours")
    return [Trainer(name, version("exfm"), command, _settings(how=(how,), times=(1,))) for name, how in _HOW.items()]


def peer_trainers(config: TrainBenchConfig) -> tuple[list[Trainer], list[str]]:
    """Return the other trainers, and a sentence on each that is left out.

    Raises: ConfigError if an environment that is named lacks a package.
    """
    found, missing = [], []
    for name, packages in _PACKAGES.items():
        setting = name.lower()
        folder = getattr(config.peers, setting)
        if not folder:
            missing.append(f"{name}: left out, as peers.{setting} names no environment")
            continue
        versions = _versions(name, packages, Path(folder))
        # -E: not the modules of exfm's environment
        command = (str(Path(folder) / "bin" / "python"), "-E", str(PROGRAMS / f"{setting}_training.py"))
        if name == FUXICTR:
            found.append(Trainer(name, versions, command, _settings(workers=(0, 1))))
        else:
            found.append(Trainer(name, versions, command, _settings()))
            found.append(Trainer(TORCHREC_FP16, versions, command, _settings(), precision="FP16"))
    return found, missing


@contextmanager
def running(trainer: Trainer, config: TrainBenchConfig, folder: Path, *, dim: int) -> Iterator[RunningTrainer]:
    """Yield a trainer's process, which is ready to learn the examples in a folder.

    Raises: StageError if it does not start.
    """
    place = "".join(letter if letter.isalnum() else "-" for letter in trainer.name)
    model, log = folder / f"{place}-{dim}.json", folder / f"{place}-{dim}.log"
    write_json(model, _model(config, folder, dim=dim) | {"precision": trainer.precision})
    with (
        log.open("wb") as output,
        subprocess.Popen(  # it ends with its input
            [*trainer.command, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env={**os.environ, **compute_environment()},
            text=True,
        ) as process,
    ):
        yield RunningTrainer(trainer, process, log)


def _settings(**lists: tuple[int | str, ...]) -> tuple[Settings, ...]:
    """Return all combinations, with each number of threads from one to the cores."""
    every = {"threads": tuple(range(1, len(os.sched_getaffinity(0)) + 1)), **lists}
    return tuple(dict(zip(every, one, strict=True)) for one in product(*every.values()))


def _versions(name: str, packages: Sequence[str], environment: Path) -> str:
    places = [str(place) for place in environment.glob("lib/python*/site-packages")]
    versions = {}
    for package in packages:
        found = next(iter(distributions(name=package, path=places)), None)
        if found is None:
            raise ConfigError(
                f"{environment}: no virtual environment with {package}; make one: python -m venv {environment} && "
                + _INSTALL[name].format(pip=environment / "bin" / "pip")
            )
        versions[package] = found.version
    own, *others = versions.items()
    return f"{own[1]} ({', '.join(f'{package} {number}' for package, number in others)})"


def _model(config: TrainBenchConfig, folder: Path, *, dim: int) -> dict[str, Any]:
    """Return what a trainer's process must know; peers read no more than plain values."""
    return {
        "config": config.to_dict(),
        "dim": dim,
        "rows": config.rows,
        "features": feature_names(config),
        "task": TASK,
        "network": config.network.to_dict(),
        "batch_size": config.batch_size,
        "seed": config.seed,
        "learning_rate": TrainingConfig().learning_rate,
        "tables_learning_rate": TablesConfig().learning_rate,
        "folder": str(folder),
        "examples": str(folder / PEERS_FILE),
    }
