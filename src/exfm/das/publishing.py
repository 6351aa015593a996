"""A line as it is after its newest window, for the stages that release it: a manifest, beside the line's states."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import polars as pl

from exfm.artifact.manifest import json_bytes, parse_json
from exfm.artifact.storage import MANIFEST, Ref, ref_to
from exfm.artifact.stores import exists, join, read_file, write_file
from exfm.das.log_tables import Das
from exfm.das.retention import first_kept_state
from exfm.errors import DataError
from exfm.models.ranking import num_parameters
from exfm.tables.grid import WINDOW, WindowGrid
from exfm.tables.reference import TableRef
from exfm.tables.table import TableState
from exfm.training.evaluation import overall, quality_of, read_predictions
from exfm.training.line import Line
from exfm.training.manifest import (
    EXAMPLES,
    PREDICTIONS,
    ModelManifest,
    Snapshot,
    TableIds,
    TeacherWeight,
    WindowQuality,
    prediction_columns,
)


@dataclass(frozen=True)
class LineTables:
    """What the tables have of a line, by their logs."""

    das: Das
    line: Line
    snapshots: TableState
    tables: Mapping[str, TableState]
    """PREDICTIONS, and of a vertical model EXAMPLES: others learn before any join."""

    @classmethod
    def of(cls, das: Das, line: Line) -> Self:
        """Return what there is now."""
        names = (EXAMPLES, PREDICTIONS) if line.kind == "vertical" else (PREDICTIONS,)
        return cls(das, line, das.snapshots().state(), {name: das.table(name, {}).state() for name in names})

    @cached_property
    def learned(self) -> list[int]:
        """Return the windows that were learned, in order of time."""
        return self.snapshots.windows_of(self.line.part)

    @cached_property
    def predicted(self) -> list[int]:
        """Return the windows with predictions, in order of time."""
        files = self.tables[PREDICTIONS].files
        return [
            window
            for window in sorted(files)
            if any(file.num_rows for file in files[window] if file.part == self.line.part)
        ]

    @cached_property
    def kept(self) -> list[int]:
        """Return the windows after which the state is kept, in order of time."""
        first = first_kept_state(self.das, self.learned)
        return [window for window in self.learned if window >= first]

    def refs(self) -> dict[str, TableRef]:
        """Return the references to the tables that a manifest is of."""
        return {name: TableRef(table=state.uri, version=state.version) for name, state in self.tables.items()}

    def are_told_by(self, manifest: Mapping[str, Any]) -> bool:
        """Return whether a manifest is of the same windows and states: each is written once.

        Another version of PREDICTIONS alone, which all models share, makes no other manifest.
        """
        refs = {name: ref.to_dict() for name, ref in self.refs().items()}
        refs[PREDICTIONS]["version"] = manifest["tables"][PREDICTIONS]["version"]
        windows, states = (
            [one[key] for one in manifest[of]] for of, key in (("windows", "index"), ("snapshots", WINDOW))
        )
        found = (manifest["line"], manifest["tables"], windows, states)
        return found == (self.line.part, refs, self.predicted, self.kept)


def publish(das: Das, line: Line) -> Ref:
    """Write the manifest of a line as it is now, and return the reference to it.

    Its figures are those of all windows that have predictions. If no window and no state came or went since, the
    manifest that is there stays, and no row is read.

    Raises: DataError if the line has learned nothing; StorageError if a table cannot be read, or the manifest cannot be
    written.
    """
    return _publish(LineTables.of(das, line))


def publish_learned(das: Das, line: Line) -> Ref | None:
    """Publish a line that has learned something; return None of another one, which waits for its first window.

    Raises: StorageError as `publish` does.
    """
    tables = LineTables.of(das, line)
    return _publish(tables) if tables.learned else None


def published_entropies(das: Das, line: Line) -> dict[str, float | None]:
    """Return the normalized entropies over all counted windows, by task, as the line's newest manifest has them.

    Empty: there is no manifest, or it is of other settings.

    Raises: StorageError if it cannot be read.
    """
    place = join(das.root, "models", line.name, MANIFEST)
    manifest = parse_json(read_file(place), source=place) if exists(place) else {}
    if manifest.get("line") != line.part:
        return {}
    return {task: of_task.get("normalized_entropy") for task, of_task in manifest["overall"].items()}


def model_manifest(das: Das, line: Line) -> ModelManifest:
    """Return what there is to say of a line as it is now.

    Raises: as `publish` does.
    """
    return _manifest(LineTables.of(das, line))


def _publish(of: LineTables) -> Ref:
    uri = join(of.das.root, "models", of.line.name)
    place = join(uri, MANIFEST)
    if not (of.learned and exists(place) and of.are_told_by(parse_json(read_file(place), source=place))):
        write_file(place, json_bytes(_manifest(of).to_dict()))
    return ref_to(uri)


def _manifest(of: LineTables) -> ModelManifest:
    das, line, learned = of.das, of.line, of.learned
    if not learned:
        raise DataError(
            f"{line.name}: it has learned nothing, because no window with examples of {_domains(line)} has all its "
            "labels; the log needs at least one window and the longest attribution window after it: take shorter "
            "windows or a longer log, or correct `domains`"
        )
    grid, tasks = WindowGrid(das.window_length), line.schema.tasks()
    columns = list(prediction_columns(tasks))
    rows = read_predictions(of.tables[PREDICTIONS], of.predicted, line=line.part, schema=line.schema, columns=columns)
    warmup = line.training.warmup_windows
    counted_from = learned[warmup] if warmup < len(learned) else learned[-1] + 1
    states = _states(of)
    ids = dict(states.select(WINDOW, "ids").iter_rows())
    found = overall(rows.filter(pl.col(WINDOW) >= counted_from), tasks)
    return ModelManifest(
        kind=line.kind,
        name=line.name,
        line=line.part,
        tables=of.refs(),
        window_length=das.window_length,
        first_learned=learned[0],
        counted_from=counted_from,
        windows=tuple(map(grid.window, of.predicted)),
        feature_schema=line.schema,
        domains=line.domains,
        teachers=line.teachers,
        model=line.model,
        training=line.training,
        num_parameters=num_parameters(line.schema, line.model),
        snapshots=tuple(_snapshots(states.filter(pl.col(WINDOW).is_in(of.kept)), line)),
        qualities=tuple(
            WindowQuality(window=window, tasks=quality_of(of_window, tasks), tables=_ids(ids.get(window, "{}")))
            for (window,), of_window in rows.group_by(WINDOW, maintain_order=True)
        ),
        overall=found.own,
        references=found.references,
        over_base_rate=found.over_base_rate,
        teacher_weights=tuple(
            TeacherWeight.parse(weight, source="snapshots")
            for text in states["teacher_weights"]
            for weight in json.loads(text)
        ),
    )


def _domains(line: Line) -> str:
    return f"domain {', '.join(map(repr, line.domains))}" if line.domains else "any domain"


def _states(of: LineTables) -> pl.DataFrame:
    """Return the rows of a line's states, in order of time."""
    columns = [WINDOW, "version", "known_until", "digest", "inputs", "ids", "teacher_weights"]
    return of.snapshots.read(of.learned, columns=columns, part=of.line.part).sort(WINDOW)


def _snapshots(states: pl.DataFrame, line: Line) -> Iterator[Snapshot]:
    rows = states.select(WINDOW, "version", "known_until", "digest", "inputs").iter_rows()
    for window, version, known_until, digest, inputs in rows:
        yield Snapshot(
            version=version,
            folder=f"{line.digest}/{window}",
            window=window,
            known_until=known_until,
            examples=json.loads(inputs)[EXAMPLES],
            digest=digest,
        )


def _ids(text: str) -> dict[str, TableIds]:
    return {table: TableIds.parse(of_table, source="snapshots") for table, of_table in json.loads(text).items()}
