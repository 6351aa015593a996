"""Fallback rows: a ranker uses a table's mean row in place of a row that it cannot get."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from exfm.artifact.fallback_rows import FallbackRows
from exfm.artifact.rows import Rows
from exfm.planning.counted import Counted
from exfm.planning.statistics import HotRows

NO_ROWS: Rows = np.empty(0, dtype=np.int64)


def fallback_rows(tables: Mapping[str, Tensor], counted: Counted) -> FallbackRows:
    """Return the mean row of each whole table ([rows, dim], by name), weighted by how often requests access a row.

    So a bag of fallback rows has the mean pooled embedding. An unweighted mean would give most weight to rows of a
    hashed table that no key accesses, and that training never changed.
    """
    skews = {of_table.name: of_table.skew for of_table in counted.statistics.tables}
    return {
        name: mean_row(table, counted.hottest.get(name, NO_ROWS), skews.get(name, ())).numpy()
        for name, table in tables.items()
    }


def mean_row(table: Tensor, hottest: Rows, skew: Sequence[HotRows]) -> Tensor:
    """Return a table's mean row, float32 [dim], weighted by its access skew; without one all weights are equal.

    An estimate: rows between two points of the skew have equal weights, and so have all rows after the last point.
    """
    rest_sum = table.sum(dim=0, dtype=torch.float64)
    mean, weight = torch.zeros_like(rest_sum), 0.0
    num_before, mass_before = 0, 0.0
    for point in skew:
        rows = torch.from_numpy(hottest[num_before : point.num_rows])
        step_sum = table[rows].sum(dim=0, dtype=torch.float64)
        step_mass = point.mass - mass_before
        mean += step_sum * (step_mass / len(rows))
        rest_sum -= step_sum
        weight += step_mass
        num_before, mass_before = point.num_rows, point.mass
    num_rest = len(table) - num_before
    if num_rest:
        mean += rest_sum * ((1 - mass_before) / num_rest)
        weight += 1 - mass_before
    return (mean / weight if weight else table.mean(dim=0, dtype=torch.float64)).to(torch.float32)
