import numpy as np
import pytest

from exfm.artifact.plan import Assignment, ShardPlan, assign
from exfm.bundling.shard_files import choose_hot_rows
from exfm.errors import PlanError
from exfm.schema import Schema


@pytest.fixture
def hot_plan(schema: Schema) -> ShardPlan:
    """Return a plan with three hot rows of table `user`."""
    assignments = [Assignment(table.name, 0, 0, table.rows) for table in schema.tables]
    slices = assign(schema, [*assignments, Assignment("user", 1, 0, 3, hot=True)], 2)
    return ShardPlan(strategy="by-hand", num_shards=2, replicas=(1, 4), slices=slices)


def test_the_first_rows_of_the_ranking_are_hot(hot_plan: ShardPlan) -> None:
    hottest = {"user": np.array([9, 4, 7, 1]), "item": np.array([3])}
    assert {table: rows.tolist() for table, rows in choose_hot_rows(hot_plan, hottest).items()} == {"user": [4, 7, 9]}


@pytest.mark.parametrize("hottest", [{"user": np.array([9, 4])}, {"item": np.array([1, 2, 3])}])
def test_a_hot_slice_of_more_rows_than_came_up_is_refused(hot_plan: ShardPlan, hottest: dict[str, np.ndarray]) -> None:
    num_known = len(hottest.get("user", ()))
    message = f"table 'user' has a hot slice of 3 rows, but the statistics rank only {num_known}"
    with pytest.raises(PlanError, match=message):
        choose_hot_rows(hot_plan, hottest)
