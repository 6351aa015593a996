"""Whether a bundle's settings suit a model, without planning it."""

from exfm.artifact.bundle import read_plan
from exfm.bundling.config import BundleConfig
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.proposer.fit import check_fit
from exfm.planning.replanning.old_plan import check_old_plan
from exfm.planning.statistics import Statistics, check_statistics
from exfm.schema import Schema


def check_bundle(config: BundleConfig, schema: Schema, statistics: Statistics) -> None:
    """Check that a model's tables fit, and that what its own settings (`BundleConfig.of_model`) name can be used.

    Raises: StorageError, ConfigError or BundleError if a file cannot be read; PlanError if the tables do not fit the
    shards, or a plan or the statistics are for another schema.
    """
    check_statistics(schema, statistics)
    if config.plan:
        read_plan(config.plan).check(schema)
        return
    CostModel.read(config.costs)
    if config.previous_plan:
        check_old_plan(read_plan(config.previous_plan), schema)
    check_fit(config.sharding.strategy, statistics, config.sharding)
