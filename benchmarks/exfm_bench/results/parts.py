"""The parts of the results: the tables of a run each, then comparisons and reference lines in files.

A part is made one item of a stage, or one file, at a time, each of which is there whole or not at all; what is there
stays.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Literal

from exfm.artifact.manifest import json_bytes, read_json
from exfm.artifact.storage import Ref
from exfm.artifact.stores import write_file
from exfm.das.advance import learn, teach
from exfm.das.closing import LogState
from exfm.das.joining import example_table
from exfm.das.log_tables import Das
from exfm.das.publishing import model_manifest, publish
from exfm.das.stages import Done, ingest, join, label
from exfm.distill.config import Method, VerticalConfig
from exfm.distill.line import vertical_line
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.stage import compare
from exfm.events.movielens import MovieLensSource
from exfm.events.parquet import LogSource
from exfm.foundation.line import foundation_line
from exfm.training.line import Line
from exfm_bench.results.conditions import Recorder
from exfm_bench.results.lines import lines_of
from exfm_bench.results.newcomers import FEEDBACK, IMPRESSIONS, NEWCOMERS, write_newcomers
from exfm_components.data_augmentation import das_of
from exfm_components.run_config import RunConfig, read_run_config

MOVIELENS, NEW_VERTICAL, OPEN_BANDIT, WORLD = "movielens", "new-vertical", "open-bandit", "world"
"""Names of parts; a world's has its seed behind."""

COMPARISON, DEFAULTS = "comparison.json", "defaults.json"
"""Files of comparisons: of methods tuned alike; of the defaults, with good and bad teachers."""

LINES, CONDITIONS, SETTINGS = "lines.json", "conditions.json", "settings.json"

LINE_METHODS: tuple[Method, ...] = ("label", "auto")
"""Methods by which vertical models are trained to be held against reference lines."""


@dataclass(frozen=True)
class Part:
    """One run, and what is compared on its examples."""

    name: str
    run: RunConfig
    comparisons: Mapping[str, ComparisonConfig]
    """By the name of the file with what was found."""
    prepare: Callable[[], None] | None = None
    """Writes what the run's source reads, where this is not there."""

    @property
    def folder(self) -> Path:
        """Return where all its files are."""
        return Path(self.run.root)


def parts_of(examples: Path, out: Path, *, num_worlds: int) -> list[Part]:
    """Return all parts, the longest first; `examples` is the folder with the settings and the data.

    Raises: ConfigError if the settings are wrong.
    """

    def read(settings: str, name: str) -> RunConfig:
        return read_run_config(examples / settings, root=str(out / name))

    movielens = read("movielens/compare.yaml", MOVIELENS)
    bandit = read("open_bandit/compare.yaml", OPEN_BANDIT)
    return [
        Part(MOVIELENS, movielens, {COMPARISON: movielens.comparison}),
        Part(OPEN_BANDIT, bandit, {COMPARISON: bandit.comparison}),
        *(
            _world(read("synthetic/compare.yaml", f"{WORLD}-{seed}"), read("synthetic/defaults.yaml", ""), seed=seed)
            for seed in range(1, num_worlds + 1)
        ),
        _new_vertical(movielens, out / NEW_VERTICAL),
    ]


def _world(run: RunConfig, defaults: RunConfig, *, seed: int) -> Part:
    source = run.source.model_copy(update={"seed": seed})
    return Part(
        f"{WORLD}-{seed}",
        run.model_copy(update={"source": source}),
        {COMPARISON: run.comparison, DEFAULTS: defaults.comparison},
    )


def _new_vertical(run: RunConfig, root: Path) -> Part:
    """Return a run on the same log, but with a vertical model of users who come in its second half."""
    assert isinstance(run.source, MovieLensSource)
    log, vertical = root / "log", VerticalConfig(name=NEWCOMERS, domains=(NEWCOMERS,))
    source = LogSource(impressions=str(log / IMPRESSIONS), feedback=str(log / FEEDBACK))
    untuned = {"teachers": (), "label_only_sizes": (), "cold_start": (), "weights": (), "learning_rates": ()}
    return Part(
        NEW_VERTICAL,
        run.model_copy(update={"root": str(root), "source": source, "vertical_models": (vertical,)}),
        {COMPARISON: run.comparison.model_copy(update=untuned)},
        partial(write_newcomers, run.source, folder=log),
    )


def make_part(part: Part) -> None:
    """Do what is due of a part; with other settings than those that made it, all of it.

    Raises: what its stages raise.
    """
    _begin(part)
    run, das = part.run, das_of(part.run)
    (_, foundation), *verticals = lines = lines_by_method(run)
    recorder = Recorder(part.folder / CONDITIONS, part=part.name)
    recorder.work("ingest", _ingest(part, das))
    recorder.work("label", label(das))
    recorder.work("teach", teach(das, foundation.name, foundation))
    recorder.work("join", join(das, [foundation.name]))
    for method, line in verticals:
        recorder.work(f"learn {method}", learn(das, line))
    file = str(part.folder / LINES)
    recorder.step("lines", file, lambda: _write_lines(das, lines, file))
    foundations = {foundation.name: publish(das, foundation)}
    for name, comparison in part.comparisons.items():
        file = str(part.folder / name)
        recorder.step(name, file, partial(_compare, run, das, comparison, foundations=foundations, out=file))
    recorder.describe(example_table(LogState.of(das)))


def lines_by_method(run: RunConfig) -> list[tuple[Method | Literal[""], Line]]:
    """Return a run's foundation model, and its vertical models by each of LINE_METHODS."""
    schema, (foundation,) = run.feature_schema, run.foundation_models
    lines: list[tuple[Method | Literal[""], Line]] = [("", foundation_line(foundation, schema))]
    for model in run.vertical_models:
        for method in LINE_METHODS:
            distillation = model.distillation.model_copy(update={"method": method})
            taught = model.model_copy(update={"distillation": distillation})
            lines.append((method, vertical_line(taught, schema, teachers=run.teachers_of(model))))
    return lines


def _begin(part: Part) -> None:
    """Forget what other settings made."""
    comparisons = {name: comparison.to_dict() for name, comparison in part.comparisons.items()}
    settings, file = {"run": part.run.to_dict()} | comparisons, part.folder / SETTINGS
    if part.folder.exists() and not (file.exists() and read_json(file) == settings):
        rmtree(part.folder)
    write_file(str(file), json_bytes(settings))


def _ingest(part: Part, das: Das) -> Iterator[Done]:
    if part.prepare:
        part.prepare()
    yield from ingest(das, part.run.source)


def _write_lines(das: Das, lines: Sequence[tuple[Method | Literal[""], Line]], file: str) -> None:
    found = [lines_of(model_manifest(das, line), method) for method, line in lines]
    write_file(file, json_bytes([model.to_dict() for model in found]))


def _compare(run: RunConfig, das: Das, config: ComparisonConfig, *, foundations: Mapping[str, Ref], out: str) -> None:
    compare(
        config,
        name=run.name,
        verticals=run.vertical_models,
        teachers={model.name: run.teachers_of(model) for model in run.vertical_models},
        foundations=foundations,
        examples=example_table(LogState.of(das)),
        out=out,
    )
