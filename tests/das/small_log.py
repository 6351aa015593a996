"""A log of a few rows that a test writes, and runs on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from growing_log import DAY_S, SCHEMA

from exfm.artifact.storage import Ref
from exfm.das.accounts import Account
from exfm.das.advance import advance
from exfm.das.closing import LogState, accounts
from exfm.das.config import DasConfig
from exfm.das.log_tables import Das
from exfm.events.parquet import LogSource
from exfm.tables.table import OnStep

IMPRESSIONS: Mapping[str, Any] = {"id": pl.Int64, "time": pl.Int64, "domain": pl.String, "item": pl.Int64}
FEEDBACK: Mapping[str, Any] = {"id": pl.Int64, "time": pl.Int64, "kind": pl.String, "value": pl.Float64}


@dataclass(frozen=True)
class SmallLog:
    """Files that a test writes."""

    folder: Path

    @property
    def source(self) -> LogSource:
        return LogSource(impressions=str(self.folder / "impressions"), feedback=str(self.folder / "feedback"))

    def write(self, part: str, name: str, rows: pl.DataFrame) -> Path:
        """Write one file of a part."""
        path = self.folder / part / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(path)
        return path

    def show(self, name: str, *shown: tuple[int, float]) -> Path:
        """Write impressions: a key and a time in days each."""
        rows = [(key, int(day * DAY_S), "all", key) for key, day in shown]
        return self.write("impressions", name, pl.DataFrame(rows, schema=dict(IMPRESSIONS), orient="row"))

    def react(self, name: str, *reactions: tuple[int, float], kind: str = "click", value: float = 1.0) -> Path:
        """Write feedback: a key and a time in days each."""
        rows = [(key, int(day * DAY_S), kind, value) for key, day in reactions]
        return self.write("feedback", name, pl.DataFrame(rows, schema=dict(FEEDBACK), orient="row"))


def small_das(root: Path | str, *, on_step: OnStep = lambda step: None, **settings: Any) -> Das:
    """Return the system under test, with windows of a day, where a click counts for six hours and a stay for a day."""
    return Das(root=str(root), schema=SCHEMA, window_length=DAY_S, config=DasConfig(**settings), on_step=on_step)


def clicks_only(das: Das, *, attribution_window: int) -> Das:
    """Return the system with one label."""
    click = das.schema.labels[0].model_copy(update={"attribution_window": attribution_window})
    return replace(das, schema=das.schema.model_copy(update={"labels": (click,)}))


def run(das: Das, log: SmallLog, *, until: float | None = None, **published: Ref | None) -> list[str]:
    """Return what one run did, as text; `until` is in days."""
    done = advance(
        das, log.source, foundation_models=published, until=None if until is None else das.ticks(int(until * DAY_S))
    )
    return [f"{one.stage}: {one.item}" for one in done]


def read(das: Das, table: str, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return all rows of a table."""
    state = das.table(table, {}).state()
    return state.read(state.files, columns=columns) if state.files else pl.DataFrame()


def account(das: Das, part: str, window: int) -> Account:
    """Return the account of one window of a part of the log."""
    [found] = [one for one in accounts(LogState.of(das)) if (one.part, one.window) == (part, window)]
    return found


def days(das: Das, time: int | None) -> float | None:
    """Return a time of tables in days."""
    return None if time is None else time / das.ticks(DAY_S)
