"""Settings of the data augmentation system."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from exfm.config import Config

HISTORY_WINDOWS, HISTORY_EXAMPLES = 4, 100_000
"""Windows before a state that a learner is told of when it goes on, so that method `auto` knows what it knew."""


class DasBounds(Config):
    """Bounds on the figures of the newest window that is done; a run ends before models learn if one is not kept."""

    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Least share of examples with pseudo-labels, for each foundation model; 0 to 1. 0: no bound."""
    max_fm_age: Annotated[float, Field(ge=0)] = 0.0
    """Largest mean age of a foundation model's pseudo-labels: seconds, or steps of ordinal time. 0: no bound."""
    max_pseudo_label_ne: Annotated[float, Field(ge=0)] = 0.0
    """Largest normalized entropy of pseudo-labels, for each foundation model and task; 1 is what the label rate gives.
    0: no bound."""
    min_label_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Least share of positive examples, for each task; 0 to 1. 0: no bound."""
    max_late_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Largest share of rows that arrived too late, for impressions and for feedback; 0 to 1. 1: no bound."""
    max_rejected_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Largest share of rejected rows, for impressions and for feedback; 0 to 1. 1: no bound."""
    max_drift: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Largest population stability index by column (a feature, or the domain), such as {age: 0.25}, from which on a
    change is usually called large; more than 0. A column that is not named has no bound."""


class DasConfig(Config):
    """When a window is complete, and how many bad rows a log may have."""

    allowed_lateness: Annotated[int, Field(ge=0)] = 0
    """Event time that the log is waited for after its newest impressions: seconds, or steps of ordinal time; at least
    0. 0: a window is complete once an impression after it has arrived."""
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of a source file's rows that may break a rule of the schema; 0 to 1. With more, nothing of the file is
    ingested. 0: none."""
    fm_wait: Annotated[int, Field(ge=0)] = 86_400
    """Event time after a window's end for which its impressions wait for the foundation model's next snapshot, then
    they are scored by an older one, or go without; seconds, or steps of ordinal time. 0: they do not wait."""
    max_age: Annotated[int, Field(ge=0)] = 0
    """Event time between what a snapshot last knew and a window's start, past which it does not score the window;
    seconds, or steps of ordinal time. 0: without bound."""
    keep_windows: Annotated[int, Field(ge=0)] = 0
    """Newest windows with examples whose rows are kept; at least 4, by which models go on. Older ones are removed from
    all tables that hold rows of the log, once nothing that is due needs them. 0: all are kept."""
    keep_snapshots: Annotated[int, Field(ge=0)] = 0
    """Newest states of each model that are kept, and those by which the next windows are predicted. Older windows that
    come late are not scored then. 0: all are kept."""
    bounds: DasBounds = DasBounds()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if 0 < self.keep_windows < HISTORY_WINDOWS:
            raise ValueError(
                f"keep_windows is {self.keep_windows}, expected at least {HISTORY_WINDOWS}, which models need to go "
                "on, or 0 to keep all"
            )
        return self
