"""What a model's state was made from, back to source files, as `snapshots` and the tables' logs tell it.

Logs and `snapshots` stay when windows and states are removed, so that a lineage outlives the rows.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exfm.artifact.stores import join
from exfm.das.log_tables import FM, SNAPSHOT, Das
from exfm.errors import DataError
from exfm.tables.table import Table, TableState

DIGEST_SHOWN = 12
"""Digits of a digest that people read."""


@dataclass(frozen=True)
class Origin:
    """Something that was made, and what it was made from."""

    text: str
    made_from: tuple["Origin", ...] = ()


@dataclass(frozen=True)
class Learned:
    """What a state went on from, and what it learned."""

    parent: str
    """The state before it; empty: there was none."""
    inputs: Mapping[str, int]
    """Versions of tables."""


def has_state(root: str, version: str) -> bool:
    """Return whether the tables below a root have a state of a model, by its name in `snapshots`.

    Raises: StorageError if they cannot be read.
    """
    return _row(_snapshots(root), version) is not None


def learned_by(root: str, version: str) -> Learned:
    """Return what a state of a model learned, by its name in `snapshots`.

    Raises: DataError if the tables below the root do not have it; StorageError if they cannot be read.
    """
    row = _row(_snapshots(root), version)
    if row is None:
        raise _no_state(root, version)
    return Learned(parent=row["parent"], inputs=json.loads(row["inputs"]))


def origin_of_state(das: Das, version: str) -> Origin:
    """Return what the state of a model was made from, by its name in `snapshots`.

    Raises: DataError if the tables do not have it; StorageError if a table cannot be read.
    """
    found = _Lineage(das).state(version)
    if found is None:
        raise _no_state(das.root, version)
    return found


def _no_state(root: str, version: str) -> DataError:
    return DataError(f"{root}: no table there has the state {version}; name the root of the run that trained it")


def _snapshots(root: str) -> TableState:
    return Table(join(root, "tables", "snapshots"), {}).state()


def _row(snapshots: TableState, version: str) -> dict[str, Any] | None:
    """Return the row of a state, by its name in `snapshots`; None: there is none."""
    named = _named(version)
    rows = snapshots.read([named[1]], part=named[0]) if named else None
    return rows.row(0, named=True) if rows is not None and rows.height else None


def _named(version: str) -> tuple[str, int] | None:
    """Return the part and the window of a state's name; None: it is none."""
    named = re.fullmatch(r"(.+?)-(-?\d+)", version)
    return (named[1], int(named[2])) if named else None


class _Lineage:
    """Reads the tables of one log at one version each."""

    def __init__(self, das: Das) -> None:
        self._das = das
        self._snapshots, self._labels_table, self._pseudo, self._examples = (
            das.table(name, {}).state() for name in ("snapshots", "labels", "pseudo_labels", "examples")
        )

    def state(self, version: str) -> Origin | None:
        """Return what a state was made from; None: it is of another log."""
        row, named = _row(self._snapshots, version), _named(version)
        if row is None or named is None:
            return None
        part, window = named
        learned = [other for other in self._snapshots.windows_of(part) if other <= window]
        text = (
            f"state {version}: learned {len(learned):,} windows, {self._start(learned[0])} to {self._end(window)}; "
            f"weights {row['digest'][:DIGEST_SHOWN]}"
        )
        return Origin(text, (*self._learned(row, window), *self._parent(row)))

    def _learned(self, row: dict[str, Any], window: int) -> Iterator[Origin]:
        """Yield what a state learned last: examples, or labels and impressions if it is a foundation model."""
        inputs: dict[str, int] = json.loads(row["inputs"])
        if self._pseudo.windows_of(row["model"]):
            yield self._labels(window, inputs["labels"])
            return
        examples = self._examples
        made = examples.inputs(f"examples/{window}", until=inputs["examples"])
        text = (
            f"examples of {self._start(window)}, version {inputs['examples']}{self._rows(examples.num_rows([window]))}"
        )
        origins = [self._labels(window, made["labels"])] if "labels" in made else []
        yield Origin(text, (*origins, *self._pseudo_labels(window, made.get("pseudo_labels"))))

    def _labels(self, window: int, version: int) -> Origin:
        made = self._labels_table.inputs(f"labels/{window}", until=version)
        origins = (Origin(f"{table}, version {of}") for table, of in made.items())
        return Origin(f"labels of {self._start(window)}, version {version}", tuple(origins))

    def _pseudo_labels(self, window: int, version: int | None) -> Iterator[Origin]:
        """Yield pseudo-labels by foundation model, each with the states that scored; of a removed window none."""
        rows = self._pseudo.read([window], columns=[FM, SNAPSHOT]).unique().sort(FM, SNAPSHOT)
        at = "" if version is None else f", version {version}"
        for (fm,), of_fm in rows.group_by(FM, maintain_order=True):
            if version is not None and self._is_newer(f"pseudo_labels/{fm}/{window}", than=version):
                yield Origin(f"pseudo-labels of {fm}{at}: scored again since, by `exfm das rescore`")
                continue
            versions = of_fm[SNAPSHOT].drop_nulls()
            states = [self.state(one) or Origin(f"state {one}: of another log") for one in versions]
            yield Origin(f"pseudo-labels of {fm}{at}", tuple(states) or (Origin("none: no state could score"),))
        if rows.is_empty() and version is not None:
            yield Origin(f"pseudo-labels{at}: their rows were removed")

    def _is_newer(self, item: str, *, than: int) -> bool:
        """Return whether an item of `pseudo_labels` was committed after a version."""
        return self._pseudo.version_of(item) > than

    def _parent(self, row: dict[str, Any]) -> Iterator[Origin]:
        if row["parent"]:
            yield Origin(f"state {row['parent']}, its parent")

    def _rows(self, count: int) -> str:
        return f": {count:,} rows" if count else ": its rows were removed"

    def _start(self, window: int) -> str:
        return self._das.time_text(self._das.grid.window(window).start)

    def _end(self, window: int) -> str:
        return self._das.time_text(self._das.grid.window(window).end)
