"""The parts of the results: a run each, up to its examples, then comparisons and reference lines, all in files.

A part is made one file or folder at a time, each of which is there whole or not at all; what is there stays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Literal

from exfm.artifact.manifest import json_bytes, read_json
from exfm.artifact.storage import ref_to
from exfm.artifact.stores import write_file
from exfm.das.join import join_examples
from exfm.das.labels import make_labels
from exfm.das.pseudo_labels import make_pseudo_labels
from exfm.distill.config import Method, VerticalConfig
from exfm.distill.stage import train_vertical
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.stage import compare
from exfm.events.examples import ExamplesManifest
from exfm.events.movielens import MovieLensSource
from exfm.events.parquet import LogSource
from exfm.events.stage import ingest
from exfm.foundation.stage import train_foundation
from exfm_bench.results.conditions import Recorder
from exfm_bench.results.lines import ModelLines, lines_of
from exfm_bench.results.newcomers import FEEDBACK, IMPRESSIONS, NEWCOMERS, write_newcomers
from exfm_components import layout
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
    """Make what is due of a part and is not there; with other settings than those that made it, all of it.

    Raises: what its stages raise.
    """
    _begin(part)
    run, root = part.run, part.run.root
    (foundation,) = run.foundation_models
    events, labels, examples = layout.events(root), layout.labels(root), layout.examples(root)
    fm, pseudo = layout.foundation(root, foundation.name), layout.pseudo_labels(root, foundation.name)
    recorder = Recorder(part.folder / CONDITIONS, part=part.name)
    step = recorder.step
    step("ingest", events, lambda: _ingest(part))
    step("label", labels, lambda: make_labels(ref_to(events), out=labels))
    step("train-fm", fm, lambda: train_foundation(foundation, events=ref_to(events), labels=ref_to(labels), out=fm))
    step("pseudo-label", pseudo, lambda: make_pseudo_labels(events=ref_to(events), foundation=ref_to(fm), out=pseudo))
    step(
        "join",
        examples,
        lambda: join_examples(
            events=ref_to(events), labels=ref_to(labels), pseudo_labels=[ref_to(pseudo)], out=examples
        ),
    )
    trained: list[tuple[Method | Literal[""], str]] = [("", fm)]
    for model in run.vertical_models:
        for method in LINE_METHODS:
            vm = layout.vertical(root, f"{model.name}-{method}")
            step(f"train-vm {method}", vm, partial(_train, run, model, method, examples=examples, out=vm))
            trained.append((method, vm))
    lines = part.folder / LINES
    step("lines", str(lines), lambda: _write_lines([lines_of(Path(vm), method) for method, vm in trained], lines))
    for name, comparison in part.comparisons.items():
        file = str(part.folder / name)
        step(name, file, partial(_compare, run, comparison, examples=examples, out=file))
    recorder.describe(ExamplesManifest.read(Path(examples)))


def _begin(part: Part) -> None:
    """Forget what other settings made."""
    comparisons = {name: comparison.to_dict() for name, comparison in part.comparisons.items()}
    settings, file = {"run": part.run.to_dict()} | comparisons, part.folder / SETTINGS
    if part.folder.exists() and not (file.exists() and read_json(file) == settings):
        rmtree(part.folder)
    write_file(str(file), json_bytes(settings))


def _ingest(part: Part) -> None:
    if part.prepare:
        part.prepare()
    run = part.run
    domains = {model.name: model.domains for model in run.vertical_models}
    ingest(
        run.source,
        schema=run.feature_schema,
        window_length=run.window_length,
        out=layout.events(run.root),
        domains=domains,
    )


def _train(run: RunConfig, model: VerticalConfig, method: Method, *, examples: str, out: str) -> None:
    distillation = model.distillation.model_copy(update={"method": method})
    train_vertical(
        model.model_copy(update={"distillation": distillation}),
        teachers=run.teachers_of(model),
        examples=ref_to(examples),
        out=out,
    )


def _compare(run: RunConfig, config: ComparisonConfig, *, examples: str, out: str) -> None:
    compare(
        config,
        name=run.name,
        verticals=run.vertical_models,
        teachers={model.name: run.teachers_of(model) for model in run.vertical_models},
        examples=ref_to(examples),
        out=out,
    )


def _write_lines(models: Sequence[ModelLines], file: Path) -> None:
    write_file(str(file), json_bytes([model.to_dict() for model in models]))
