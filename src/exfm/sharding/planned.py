"""The plan of a bundle: one that its settings name, or one made by them."""

from exfm.artifact.bundle import read_plan
from exfm.artifact.plan import ShardPlan
from exfm.planning.moving.replanning import replan
from exfm.planning.planner import make_plan
from exfm.planning.pricing.costs import CostModel
from exfm.planning.statistics import Statistics
from exfm.schema import Schema
from exfm.sharding.config import BundleConfig


def plan_bundle(config: BundleConfig, schema: Schema, statistics: Statistics) -> ShardPlan:
    """Return a model's plan by its own settings (`BundleConfig.of_model`).

    Raises: StorageError or ConfigError if what they name cannot be read; PlanError if the plan is for another schema,
    or as `make_plan`.
    """
    if config.plan:
        return read_plan(config.plan).check(schema)
    costs = CostModel.read(config.costs)
    if config.previous_plan:
        return replan(read_plan(config.previous_plan), schema, statistics, config.sharding, costs).plan
    return make_plan(schema, statistics, config.sharding, costs)
