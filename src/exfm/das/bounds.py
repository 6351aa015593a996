"""Bounds on the figures of a window's report."""

import polars as pl

from exfm.das.closing import LogState
from exfm.das.config import DasBounds
from exfm.das.log_tables import FIGURE, OF, VALUE
from exfm.das.reporting import newest_reported
from exfm.errors import DataError


def require_within_bounds(state: LogState) -> None:
    """Return if the newest window that is done keeps all bounds.

    Raises: DataError, which names each figure that does not, its value and its bound.
    """
    das, window = state.das, newest_reported(state)
    problems = [] if window is None else broken(state.report.read([window]), das.config.bounds)
    if window is not None and problems:
        raise DataError(
            f"window {das.time_text(das.grid.window(window).start)} is done, but out of bounds: {'; '.join(problems)}. "
            "`exfm das report` shows the windows before; correct the log or the foundation model, or change das.bounds "
            "in run.yaml, and run this again"
        )


def broken(figures: pl.DataFrame, bounds: DasBounds) -> list[str]:
    """Return each figure of a report that does not keep its bound."""
    found = []
    for setting, field in type(bounds).model_fields.items():
        bound = getattr(bounds, setting)
        side, _, figure = setting.partition("_")
        rows = figures.filter(pl.col(FIGURE) == figure) if bound != field.default else figures.clear()
        for of, value in rows.select(OF, VALUE).iter_rows():
            limit = bound.get(of) if isinstance(bound, dict) else bound
            if limit is not None and (value < limit if side == "min" else value > limit):
                found.append(f"{figure} of {of} is {value:.4g}, das.bounds.{setting} is {limit:g}")
    return found
