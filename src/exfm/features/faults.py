"""Faults: rows of a column whose values break a rule, whichever layer has the rule."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Fault:
    """One rule that a column's values must keep, and the rows that break it. Legend: B rows."""

    column: str
    found: str
    """What the rule does not allow, such as `null`; no values, so that equal faults have equal words."""
    expected: str
    """What the rule allows, and what to do where that is not plain."""
    rows_B: npt.NDArray[np.bool_]
    """Which rows break the rule."""

    @property
    def reason(self) -> str:
        """Return why such a row is rejected."""
        return f"{self.column}: {self.found}, expected {self.expected}"
