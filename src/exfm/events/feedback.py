"""Simulated arrival of feedback: delays, and the faults that real feedback has (late, repeated, orphaned rows)."""

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from exfm.config import Config

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole; 0 to 1."""

DAY_S = 86_400


class FeedbackSimulation(Config):
    """When feedback arrives, and what is wrong with it."""

    mean_delay_s: Annotated[float, Field(ge=0, le=30 * DAY_S)] = 120.0
    """Mean of the exponential delay, in seconds; 0 to 30 days. 0: feedback comes at once."""
    late_share: Share = 0.01
    """Share of feedback that is late in addition to its delay; 0 to 1. 0: none."""
    min_late_s: Annotated[int, Field(ge=0)] = 3 * DAY_S
    """Least lateness of late feedback, in seconds; at least 0."""
    max_late_s: Annotated[int, Field(ge=0, le=365 * DAY_S)] = 10 * DAY_S
    """Most lateness of late feedback, in seconds; 0 to a year. Lateness is uniform between the two."""
    duplicate_share: Share = 0.005
    """Share of feedback that is delivered a second time, unchanged; 0 to 1. 0: none."""
    orphan_share: Share = 0.002
    """Feedback of impressions that do not exist, as a share of that of impressions that do; 0 to 1. 0: none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_late_s > self.max_late_s:
            raise ValueError(f"min_late_s is {self.min_late_s}, more than max_late_s, {self.max_late_s}")
        return self


@dataclass(frozen=True)
class Delays:
    """How long after its cause each feedback arrives."""

    delay_s: npt.NDArray[np.int64]
    """Delay of each feedback in seconds, also of late feedback."""
    num_late: int


@dataclass(frozen=True)
class FaultyFeedback:
    """Feedback with its planted faults."""

    rows: pl.DataFrame
    num_duplicates: int
    num_orphans: int


def draw_delays(
    num_rows: int, *, mean_delay_s: float, simulation: FeedbackSimulation, rng: np.random.Generator
) -> Delays:
    """Return exponential delays, some of them late as `simulation` says; its own mean delay is not used."""
    delay_s = np.rint(rng.exponential(mean_delay_s, num_rows)).astype(np.int64)
    late = _choose(num_rows, share=simulation.late_share, rng=rng)
    delay_s[late] += rng.integers(simulation.min_late_s, simulation.max_late_s, len(late), endpoint=True)
    return Delays(delay_s=delay_s, num_late=len(late))


def plant_faults(feedback: pl.DataFrame, *, simulation: FeedbackSimulation, rng: np.random.Generator) -> FaultyFeedback:
    """Return feedback (impression_id, event_time_s, kind, value) with duplicates and orphans added after it.

    An orphan is like another row, but of impression -1, -2, ...: a negative id is no impression's.
    """
    again = _choose(feedback.height, share=simulation.duplicate_share, rng=rng)
    duplicates = feedback[again]
    alike = _choose(feedback.height, share=simulation.orphan_share, rng=rng)
    ids = pl.Series(-1 - np.arange(len(alike)), dtype=pl.Int64)
    orphans = feedback[alike].with_columns(ids.alias("impression_id"))
    return FaultyFeedback(
        rows=pl.concat([feedback, duplicates, orphans]), num_duplicates=len(again), num_orphans=len(alike)
    )


def describe_faults(faulty: FaultyFeedback, *, num_late: int, simulation: FeedbackSimulation) -> tuple[str, ...]:
    """Return a sentence about each fault that was planted, with its number of rows."""
    late_d = (simulation.min_late_s / DAY_S, simulation.max_late_s / DAY_S)
    return (
        f"{num_late:,} feedback rows were made late on purpose, by {late_d[0]:g} to {late_d[1]:g} days.",
        f"{faulty.num_duplicates:,} feedback rows were repeated on purpose.",
        f"{faulty.num_orphans:,} feedback rows of impressions that do not exist were added on purpose.",
    )


def _choose(num_rows: int, *, share: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.sort(rng.choice(num_rows, size=round(share * num_rows), replace=False))
