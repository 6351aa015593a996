"""python -m exfm.serving.ranker: serve a bundle's ranker."""

from functools import partial

from pydantic import TypeAdapter, ValidationError

from exfm.config import describe
from exfm.errors import ConfigError
from exfm.serving.config import Address, RankerConfig
from exfm.serving.ranker.model import RankerModel
from exfm.serving.server.command_line import add_setting, config_from, parse, server_parser
from exfm.serving.server.process import exit_with_message, run
from exfm.serving.tls import TlsFolder


def main() -> None:
    """Serve the ranker that the command line names."""
    parser = server_parser("exfm.serving.ranker", "Serve a bundle's ranker.")
    parser.add_argument(
        "--shards",
        required=True,
        metavar="HOST:PORT,...",
        help="the shards' stream addresses, in order; a name may have several servers of its shard. Empty: this "
        "server holds all tables itself",
    )
    add_setting(parser, "--when-shard-fails", "shards.when_shard_fails")
    add_setting(parser, "--local-tables-mib", "shards.local_tables_mib")
    add_setting(parser, "--request-log-folder", "request_log.folder")
    arguments = parse(parser, RankerConfig)
    config = config_from(arguments, RankerConfig)
    shards = _addresses(arguments.shards)
    # For connections to shards: REST and gRPC of this server are not encrypted.
    tls = TlsFolder(arguments.tls) if arguments.tls else None

    load = partial(RankerModel, arguments.bundle, bundle_id=arguments.bundle_id, shards=shards, tls=tls, config=config)
    run(load, config=config)


def _addresses(text: str) -> list[str]:
    try:
        return TypeAdapter(list[Address]).validate_python(text.split(",") if text else [])
    except ValidationError as error:
        raise ConfigError(describe(error, source="--shards")) from error


if __name__ == "__main__":
    exit_with_message(main)
