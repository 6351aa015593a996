"""Shares of a backfill: windows that need nothing of each other are done by several processes at a time."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from exfm.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """What one of several processes does of a stage's windows."""

    number: int = 1
    """Which one, from 1 on."""
    of: int = 1
    """How many there are."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return a share from what `str` makes of it, such as 2/8; empty: the whole.

        Raises: ConfigError if it is anything else.
        """
        found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text or "1/1", re.ASCII)
        share = cls(int(found[1]), int(found[2])) if found else None
        if share is None or share.number > share.of:
            raise ConfigError(f"share is {text!r}, expected a number and how many there are, such as 2/8")
        return share

    def __str__(self) -> str:
        """Return it as `parse` reads it."""
        return f"{self.number}/{self.of}"

    def windows(self, due: Iterable[int]) -> list[int]:
        """Return its part of windows that are due, whatever the other processes have done of theirs."""
        return [window for window in due if window % self.of == self.number - 1]


WHOLE = Share()


def shares(num_windows: int, *, at_most: int) -> list[Share]:
    """Return the shares of so many windows; none if there is nothing to share."""
    of = min(num_windows, at_most)
    return [Share(number, of) for number in range(1, of + 1)] if of > 1 else []
