"""python -m exfm.serving.ranker: serve a bundle's ranker."""

from pydantic import TypeAdapter, ValidationError

from exfm.config import describe
from exfm.errors import ConfigError
from exfm.serving.config import Address, RankerConfig
from exfm.serving.ranker.model import RankerModel
from exfm.serving.server.command_line import add_setting, config_from, parse, server_parser, tls_from
from exfm.serving.server.process import exit_with_message, run


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
    arguments = parse(parser, RankerConfig)
    config = config_from(arguments, RankerConfig)
    shards = _addresses(arguments.shards)
    tls = tls_from(arguments)  # for connections to shards; REST and gRPC of this server are not encrypted

    def load() -> RankerModel:
        return RankerModel.load(arguments.bundle, bundle_id=arguments.bundle_id, shards=shards, tls=tls, config=config)

    run(load, config=config)


def _addresses(text: str) -> list[str]:
    try:
        return TypeAdapter(list[Address]).validate_python(text.split(",") if text else [])
    except ValidationError as error:
        raise ConfigError(describe(error, source="--shards")) from error


if __name__ == "__main__":
    exit_with_message(main)
