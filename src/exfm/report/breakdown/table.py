"""The breakdown as a table for a terminal."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.table import Table

from exfm.report.breakdown.layers import LayerTimes


def layers_table(layer_times: Sequence[LayerTimes], counted_R: npt.NDArray[np.bool_]) -> Table:
    """Return each layer's wall and CPU time, and its share of its server's time in the counted requests."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("", "layer"):
        table.add_column(column)
    for column in ("wall ms\nmedian", "\nP99", "\nshare", "CPU ms\nmedian", "\nP99", "\nshare"):
        table.add_column(column, justify="right", no_wrap=True)
    for server in dict.fromkeys(one.server for one in layer_times):
        of_server = [one for one in layer_times if one.server == server]
        whole_wall_R = np.sum([one.wall_ms_R for one in of_server], axis=0)
        whole_cpu_R = np.sum([one.cpu_ms_R for one in of_server], axis=0)
        for place, one in enumerate(of_server):
            wall = [*_figures(one.wall_ms_R), _share(one.wall_ms_R, whole_wall_R, counted_R)]
            cpu = [*_figures(one.cpu_ms_R), _share(one.cpu_ms_R, whole_cpu_R, counted_R)]
            table.add_row(server if place == 0 else "", one.layer, *wall, *(cpu if one.cpu_ms_R.any() else []))
        whole = [*_figures(whole_wall_R), "", *_figures(whole_cpu_R), ""]
        table.add_row("", "all", *whole, end_section=True, style="bold")
    return table


def _figures(values_R: npt.NDArray[np.float64]) -> list[str]:
    median, p99 = np.quantile(values_R, [0.5, 0.99])
    return [f"{median:.3f}", f"{p99:.3f}"]


def _share(
    values_R: npt.NDArray[np.float64], whole_R: npt.NDArray[np.float64], counted_R: npt.NDArray[np.bool_]
) -> str:
    return f"{values_R[counted_R].sum() / whole_R[counted_R].sum():.1%}"
