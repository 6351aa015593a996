"""The options that both servers' command lines share."""

import argparse
from pathlib import Path
from typing import TypeVar

from exfm.config import read_yaml
from exfm.errors import ConfigError
from exfm.serving.config import ServerConfig

AnyConfig = TypeVar("AnyConfig", bound=ServerConfig)


def server_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that both servers have."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description, allow_abbrev=False)
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="folder of the bundle to serve")
    parser.add_argument(
        "--bundle-id", default="", metavar="ID", help="refuse to start if the folder holds another bundle than this one"
    )
    parser.add_argument(
        "--tls", type=Path, metavar="DIR",
        help="folder with tls.crt, tls.key and ca.crt, for connections between ranker and shards; without it, no TLS",
    )  # fmt: skip
    parser.add_argument("--settings", type=Path, metavar="FILE", help="YAML file of the server's settings")
    add_setting(parser, "--host", "listen.host")
    add_setting(parser, "--http-port", "listen.http_port")
    add_setting(parser, "--grpc-port", "listen.grpc_port")
    return parser


def add_setting(parser: argparse.ArgumentParser, option: str, place: str) -> None:
    """Add an option that overrides one setting of the file, `GROUP.NAME`; the settings check its value."""
    parser.add_argument(
        option, dest=place, metavar=option.split("-")[-1].upper(), help=f"overrides the setting {place}"
    )


def parse(parser: argparse.ArgumentParser, kind: type[ServerConfig]) -> argparse.Namespace:
    """Return the options of this process's command line.

    Raises: ConfigError for an option of an earlier release, with what to do; SystemExit for another unknown option.
    """
    arguments, unknown = parser.parse_known_args()
    for option in (one.split("=")[0] for one in unknown):
        if remedy := kind.removed.get(option.removeprefix("--").replace("-", "_")):
            raise ConfigError(f"{option} is no longer an option: {remedy}; run `exfm deploy` again if a pod says this")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def config_from(arguments: argparse.Namespace, kind: type[AnyConfig]) -> AnyConfig:
    """Return the settings of the file, overridden by those of the command line.

    Raises: ConfigError, which names each wrong setting.
    """
    values = {} if arguments.settings is None else read_yaml(arguments.settings)
    given = {place: value for place, value in vars(arguments).items() if "." in place and value is not None}
    for group, name, value in ((*place.split("."), value) for place, value in given.items()):
        if isinstance(values, dict) and isinstance(of_group := values.get(group, {}), dict):
            values |= {group: of_group | {name: value}}
    sources = [*filter(None, [str(arguments.settings or "")]), *(["the command line"] if given else [])]
    return kind.parse(values, source=" and ".join(sources) or "no settings")
