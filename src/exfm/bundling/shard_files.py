"""The files of a bundle that depend on its plan: each shard's slices, and the hot rows."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor

from exfm.artifact.bundle import tables_file
from exfm.artifact.hot_rows import HOT_ROWS_FILE, hot_rows_file, write_hot_rows
from exfm.artifact.plan import ShardPlan
from exfm.artifact.rows import Rows
from exfm.errors import PlanError
from exfm.models.shard_tables import flatten_tables


def write_shards(folder: Path, tables: Mapping[str, Tensor], plan: ShardPlan, *, hottest: Mapping[str, Rows]) -> None:
    """Write each shard's slices of whole tables ([rows, dim], by name) into a bundle's folder.

    `hottest` lists rows of tables, hottest first.

    Raises: PlanError if a hot slice has more rows than its table's list; BundleError if the plan's encoding cannot
    represent a table's numbers.
    """
    hot_rows = choose_hot_rows(plan, hottest)
    if hot_rows:
        write_hot_rows(folder / HOT_ROWS_FILE, hot_rows)
    for shard in range(plan.num_shards):
        path = folder / tables_file(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({plan.encoding: flatten_tables(tables, plan, shard=shard, hot_rows=hot_rows)}, path)
        path.chmod(0o644)  # safetensors makes it private, but servers run as another user
        held = {slice_.table: hot_rows[slice_.table] for slice_ in plan.slices_on(shard) if slice_.kind == "hot"}
        if held:
            write_hot_rows(folder / hot_rows_file(shard), held)


def choose_hot_rows(plan: ShardPlan, hottest: Mapping[str, Rows]) -> dict[str, Rows]:
    """Return the rows of each hot slice in ascending order: the first ones of its table's list, hottest first.

    Raises: PlanError if a hot slice has more rows than its table's list.
    """
    hot_rows = {}
    for table, slice_ in plan.hot_slices().items():
        listed = hottest.get(table, np.empty(0, dtype=np.int64))
        if len(listed) < slice_.num_rows:
            raise PlanError(
                f"table {table!r} has a hot slice of {slice_.num_rows} rows, but the statistics rank only "
                f"{len(listed)}; count more requests, or plan again with these statistics"
            )
        hot_rows[table] = np.sort(listed[: slice_.num_rows])
    return hot_rows
