"""python -m exfm.serving.shard: serve one shard of a bundle."""

from functools import partial

from exfm.serving.config import ShardConfig
from exfm.serving.server.command_line import add_setting, config_from, parse, server_parser
from exfm.serving.server.process import exit_with_message, run
from exfm.serving.shard.model import ShardModel
from exfm.serving.tls import TlsFolder


def main() -> None:
    """Serve the shard that the command line names."""
    parser = server_parser("exfm.serving.shard", "Serve one shard of a bundle.")
    add_setting(parser, "--stream-port", "listen.stream_port")
    parser.add_argument("--shard", type=int, required=True, metavar="N", help="which one, from 0")
    arguments = parse(parser, ShardConfig)
    config = config_from(arguments, ShardConfig)
    tls = TlsFolder(arguments.tls) if arguments.tls else None

    load = partial(
        ShardModel, arguments.bundle, bundle_id=arguments.bundle_id, shard=arguments.shard, tls=tls, config=config
    )
    run(load, config=config, tls=tls)


if __name__ == "__main__":
    exit_with_message(main)
