"""Arrival: which source file closed which window. Nothing here reads a clock.

Source files arrive in the order of their names, feedback before impressions of the same name. What was known when a
window closed is what files up to a name hold, whenever a run reads them. So a replay of a year and a run a day agree.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Part = Literal["feedback", "impressions", "until"]
PARTS: tuple[Part, ...] = ("feedback", "impressions", "until")
"""In order of arrival. `until`: nothing of a file, but the user's word that the log is complete up to a time."""


@dataclass(frozen=True)
class Arrival:
    """A source file that was ingested, or an `until`."""

    name: str
    """Of the file, below its source's folder; of an `until`, that of the last file before it."""
    part: Part
    watermark: int | None
    """Time up to which the log is complete after it, in ticks; None: not known yet."""

    @property
    def order(self) -> tuple[str, int, int]:
        """Return what sorts arrivals."""
        return self.name, PARTS.index(self.part), self.watermark or 0


class Timeline:
    """The watermarks of a log, by arrival."""

    def __init__(self, arrivals: Iterable[Arrival]) -> None:
        self.arrivals: Sequence[Arrival] = sorted(arrivals, key=lambda arrival: arrival.order)
        known = [arrival for arrival in self.arrivals if arrival.watermark is not None]
        self._names = [arrival.name for arrival in known]
        self._watermarks: list[int] = []
        for arrival in known:
            assert arrival.watermark is not None
            self._watermarks.append(max([arrival.watermark, *self._watermarks[-1:]]))

    def after(self, arrival: Arrival) -> "Timeline":
        """Return this timeline with one more arrival."""
        return Timeline([*self.arrivals, arrival])

    @property
    def watermark(self) -> int | None:
        """Return the time up to which the log is complete; None: nothing is known."""
        return self._watermarks[-1] if self._watermarks else None

    @property
    def last(self) -> Arrival | None:
        """Return the last arrival; None: nothing has arrived."""
        return self.arrivals[-1] if self.arrivals else None

    def passed(self, time: int) -> str | None:
        """Return the name of the first file with which the log was complete up to a time; None: it is not yet."""
        at = bisect_left(self._watermarks, time)
        return self._names[at] if at < len(self._names) else None


def watermark_after(before: int | None, times_quantile: int | None, *, allowed_lateness: int) -> int | None:
    """Return the watermark after a file of impressions, whose event times' 99.9th percentile is given; all in ticks."""
    if times_quantile is None:
        return before
    return max(times_quantile - allowed_lateness, before if before is not None else times_quantile - allowed_lateness)
