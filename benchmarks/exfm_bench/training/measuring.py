"""All trainers measured at one number of dims, in turn, and exfm once more with more examples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exfm.errors import StageError
from exfm_bench.ratios import Interval, median_of, ratio_of
from exfm_bench.training.config import TrainBenchConfig
from exfm_bench.training.trainers import EXFM, OURS, RunningTrainer, Settings, Trainer, Turn, running

Say = Callable[[str], None]


@dataclass(frozen=True)
class Series:
    """All turns of one trainer."""

    trainer: Trainer
    settings: Settings
    """Its fastest."""
    turns: tuple[Turn, ...]

    @property
    def examples_per_s(self) -> Interval:
        """Return the median over turns."""
        return median_of([[1 / turn.seconds_per_example for turn in self.turns]])

    @property
    def cpu_us(self) -> float:
        """Return the median CPU time of an example, in microseconds."""
        return float(np.median([1e6 * turn.cpu_s / turn.num_examples for turn in self.turns]))

    @property
    def peak_bytes(self) -> int:
        """Return the most memory that its process has had resident."""
        return self.turns[-1].peak_bytes

    def times_slower(self, other: "Series") -> Interval:
        """Return its time over another trainer's in the same turn."""
        return ratio_of([[turn.seconds for turn in self.turns]], [[turn.seconds for turn in other.turns]])

    def times_cpu(self, other: "Series") -> Interval:
        """Return its CPU time over another trainer's in the same turn."""
        return ratio_of([[turn.cpu_s for turn in self.turns]], [[turn.cpu_s for turn in other.turns]])


@dataclass(frozen=True)
class Growth:
    """What exfm took for all examples and for `times` as many, in turn, in a process of its own."""

    times: int
    first: Turn
    """The first turn, with few examples."""
    few: tuple[Turn, ...]
    many: tuple[Turn, ...]

    @property
    def time(self) -> Interval:
        """Return the time of an example among many, over that among few."""
        few, many = ([turn.seconds_per_example for turn in turns] for turns in (self.few, self.many))
        return ratio_of([many], [few])

    @property
    def memory(self) -> float:
        """Return the peak of memory at the end, over that after the first turn."""
        return self.many[-1].peak_bytes / self.first.peak_bytes


@dataclass(frozen=True)
class Measured:
    """All trainers at one number of dims."""

    dim: int
    series: tuple[Series, ...]
    missing: tuple[str, ...]
    """Trainers that did not start or that ended, and why."""
    growth: Growth | None = None
    """None: not measured yet."""

    def of(self, name: str) -> Series | None:
        """Return a trainer's turns, or None if it was not measured."""
        return next((one for one in self.series if one.trainer.name == name), None)


def measure(
    config: TrainBenchConfig, trainers: Sequence[Trainer], folder: Path, *, dim: int, say: Say
) -> Iterator[Measured]:
    """Yield what was measured with the examples in a folder: first without growth, then all.

    Raises: StageError if exfm's trainer ends.
    """
    missing: list[str] = []
    processes: dict[str, RunningTrainer] = {}
    chosen: dict[str, Settings] = {}
    with ExitStack() as stack:
        for trainer in trainers:
            settings = trainer.settings
            if trainer.name in OURS and EXFM in chosen:  # all ways have the threads of the first
                settings = tuple(one for one in settings if one["threads"] == chosen[EXFM]["threads"])
            try:
                process = stack.enter_context(running(trainer, config, folder, dim=dim))
                chosen[trainer.name] = _fastest(settings, process, num_turns=config.choosing_turns)
            except StageError as error:
                if trainer.name == EXFM:
                    raise
                missing.append(f"{trainer.name}: {str(error).splitlines()[-1].strip()}")  # others are still measured
                say(f"  {error}")
                continue
            processes[trainer.name] = process
            say(f"  {trainer.name}: {settings_text(chosen[trainer.name])}")
        turns = _in_turn(processes, chosen, config)
    measured = [trainer for trainer in trainers if trainer.name in processes]
    series = tuple(Series(one, chosen[one.name], tuple(turns[one.name])) for one in measured)
    found = Measured(dim=dim, series=series, missing=tuple(missing))
    yield found
    ours = next(one for one in trainers if one.name == EXFM)
    say(f"  {config.growth} times as many examples")
    yield replace(found, growth=_grown(ours, chosen[EXFM], config, folder, dim=dim))


def settings_text(settings: Settings) -> str:
    """Return the settings of a turn that were chosen, for people."""
    workers = settings.get("workers", 0)
    reading = f", {workers} to read" if workers else ""
    return f"{settings['threads']} thread{'s' * (settings['threads'] != 1)}{reading}"


def _fastest(every: Sequence[Settings], process: RunningTrainer, *, num_turns: int) -> Settings:
    process.turn(every[0])  # the first allocates
    if len(every) == 1:
        return every[0]
    taken = [
        float(np.median([process.turn(settings).seconds_per_example for _ in range(num_turns)])) for settings in every
    ]
    return every[int(np.argmin(taken))]


def _in_turn(
    processes: Mapping[str, RunningTrainer], chosen: Mapping[str, Settings], config: TrainBenchConfig
) -> dict[str, list[Turn]]:
    """Return the turns of each trainer; each time all come once, in an order drawn anew."""
    generator = np.random.default_rng(config.seed)
    turns: dict[str, list[Turn]] = {name: [] for name in processes}
    for _ in range(config.turns):
        for name in generator.permutation(list(processes)):
            turns[name].append(processes[name].turn(chosen[name]))
    return turns


def _grown(trainer: Trainer, settings: Settings, config: TrainBenchConfig, folder: Path, *, dim: int) -> Growth:
    with running(trainer, config, folder, dim=dim) as process:
        first = process.turn(settings)
        pairs = [
            tuple(process.turn({**settings, "times": times}) for times in (1, config.growth))
            for _ in range(config.turns)
        ]
    few, many = zip(*pairs, strict=True)
    return Growth(times=config.growth, first=first, few=few, many=many)
