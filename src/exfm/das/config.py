"""Settings of the data augmentation system."""

from typing import Annotated

from pydantic import Field

from exfm.config import Config


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
