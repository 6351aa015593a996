"""The plan of a bundle: one that its settings name, or one that they make."""

from exfm.artifact.bundle import read_plan
from exfm.artifact.plan import ShardPlan
from exfm.bundling.config import BundleConfig
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.planner import make_plan
from exfm.planning.replanning.replanner import replan
from exfm.planning.statistics import Statistics, check_statistics
from exfm.schema import Schema


def plan_bundle(config: BundleConfig, schema: Schema, statistics: Statistics) -> tuple[ShardPlan, str]:
    """Return a model's plan by its own settings (`BundleConfig.of_model`), and the bytes moved from an old plan if any.

    Raises: StorageError, ConfigError or BundleError if a file cannot be read; PlanError if the plan or the statistics
    are for another schema, or as `make_plan`.
    """
    check_statistics(schema, statistics)
    if config.plan:
        return read_plan(config.plan).check(schema), ""
    costs = CostModel.read(config.costs)
    if config.previous_plan:
        found = replan(read_plan(config.previous_plan), schema, statistics, config.sharding, costs)
        return found.plan, found.headline()
    return make_plan(schema, statistics, config.sharding, costs), ""
