"""A line as it is after its newest window, for the stages that release it: a manifest, beside the line's states."""

import json
from collections.abc import Iterator
from typing import Any

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
)


def publish(das: Das, line: Line) -> Ref:
    """Write the manifest of a line as it is now, and return the reference to it.

    Its figures are those of all windows that have predictions. A manifest that says the same stays as it is: another
    model's predictions alone make no other manifest.

    Raises: DataError if the line has learned nothing; StorageError if a table cannot be read, or the manifest cannot be
    written.
    """
    uri = join(das.root, "models", line.name)
    manifest, found = join(uri, MANIFEST), model_manifest(das, line).to_dict()
    if exists(manifest):
        before = parse_json(read_file(manifest), source=manifest)
        if _without_version(before) == _without_version(found):
            return ref_to(uri)
    write_file(manifest, json_bytes(found))
    return ref_to(uri)


def publish_learned(das: Das, line: Line) -> Ref | None:
    """Publish a line that has learned something; return None of another one, which waits for its first window.

    Raises: StorageError as `publish` does.
    """
    return None if _states(das.snapshots().state(), line).is_empty() else publish(das, line)


def model_manifest(das: Das, line: Line) -> ModelManifest:
    """Return what there is to say of a line as it is now.

    Raises: as `publish` does.
    """
    snapshots = das.snapshots().state()
    states = _states(snapshots, line)
    if states.is_empty():
        raise DataError(
            f"{line.name}: it has learned nothing, because no window with examples of {_domains(line)} has all its "
            "labels; the log needs at least one window and the longest attribution window after it: take shorter "
            "windows or a longer log, or correct `domains`"
        )
    names = (EXAMPLES, PREDICTIONS) if line.kind == "vertical" else (PREDICTIONS,)  # others learn before any join
    tables = {name: das.table(name, {}).state() for name in names}
    predictions = tables[PREDICTIONS]
    of_line = [window for window in sorted(predictions.files) if _num_rows(predictions, window, line)]
    rows = read_predictions(predictions, of_line, line=line.part, schema=line.schema)
    grid, tasks = WindowGrid(das.window_length), line.schema.tasks()
    learned = states[WINDOW].to_list()
    warmup = line.training.warmup_windows
    counted_from = learned[warmup] if warmup < len(learned) else learned[-1] + 1
    kept = states.filter(pl.col(WINDOW) >= first_kept_state(das, learned))
    ids = dict(states.select(WINDOW, "ids").iter_rows())
    found = overall(rows.filter(pl.col(WINDOW) >= counted_from), tasks)
    return ModelManifest(
        kind=line.kind,
        name=line.name,
        line=line.part,
        tables={name: TableRef(table=state.uri, version=state.version) for name, state in tables.items()},
        window_length=das.window_length,
        first_learned=learned[0],
        counted_from=counted_from,
        windows=tuple(map(grid.window, of_line)),
        feature_schema=line.schema,
        domains=line.domains,
        teachers=line.teachers,
        model=line.model,
        training=line.training,
        num_parameters=num_parameters(line.schema, line.model),
        snapshots=tuple(_snapshots(kept, line)),
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


def _without_version(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest without the version of the predictions, which all models share."""
    tables = manifest["tables"] | {PREDICTIONS: manifest["tables"][PREDICTIONS]["table"]}
    return manifest | {"tables": tables}


def _states(snapshots: TableState, line: Line) -> pl.DataFrame:
    """Return the rows of a line's states, in order of time."""
    windows = [window for window in sorted(snapshots.files) if snapshots.newest_revision(window, part=line.part)]
    columns = [WINDOW, "version", "known_until", "digest", "inputs", "ids", "teacher_weights"]
    return snapshots.read(windows, columns=columns, part=line.part).sort(WINDOW)


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


def _num_rows(table: TableState, window: int, line: Line) -> int:
    return sum(file.num_rows for file in table.files.get(window, ()) if file.part == line.part)


def _ids(text: str) -> dict[str, TableIds]:
    return {table: TableIds.parse(of_table, source="snapshots") for table, of_table in json.loads(text).items()}
