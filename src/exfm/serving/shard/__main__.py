"""python -m exfm.serving.shard: serve one shard of a bundle."""

import os
import sys

from exfm.errors import ConfigError
from exfm.serving.command_line import config_from, server_parser, tls_from
from exfm.serving.config import SchedulingPolicy, ShardConfig
from exfm.serving.server import exit_with_message, run
from exfm.serving.shard.model import ShardModel


def main() -> None:
    """Serve the shard that the command line names."""
    parser = server_parser("exfm.serving.shard", "Serve one shard of a bundle.")
    parser.add_argument("--stream-port", type=int, metavar="PORT", help="port of streams, instead of the settings'")
    parser.add_argument("--shard", type=int, required=True, metavar="N", help="which one, from 0")
    arguments = parser.parse_args()
    config = config_from(arguments, ShardConfig)
    tls = tls_from(arguments)
    _schedule(config.scheduling_policy)

    def load() -> ShardModel:
        return ShardModel.load(
            arguments.bundle, bundle_id=arguments.bundle_id, shard=arguments.shard, tls=tls, config=config
        )

    run(load, config=config, tls=tls)


def _schedule(policy: SchedulingPolicy) -> None:
    """Have this thread, and those that it starts from now on, run under a policy.

    Raises: ConfigError if this machine has no such policy, or does not allow it.
    """
    if policy == "other":
        return
    if sys.platform != "linux":
        raise ConfigError(f"scheduling_policy is {policy!r}, which is Linux's alone; set 'other'")
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        raise ConfigError(
            f"scheduling_policy is {policy!r}, which is refused ({error.strerror}); set 'other'"
        ) from error


if __name__ == "__main__":
    exit_with_message(main)
