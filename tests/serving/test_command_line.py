from pathlib import Path

import pytest

from exfm.errors import ConfigError
from exfm.serving.config import RankerConfig
from exfm.serving.server.command_line import add_setting, config_from, server_parser


def settings_of(tmp_path: Path, content: str, *options: str) -> RankerConfig:
    """Return a ranker's settings of a file, with the options that pods of the release before have, too."""
    file = tmp_path / "ranker.yaml"
    file.write_text(content)
    parser = server_parser("ranker", "")
    add_setting(parser, "--when-shard-fails", "shards.when_shard_fails")
    add_setting(parser, "--local-tables-mib", "shards.local_tables_mib")
    return config_from(parser.parse_args(["--bundle=b", f"--settings={file}", *options]), RankerConfig)


def test_options_take_the_place_of_the_files_settings_and_leave_the_others_of_their_group(tmp_path: Path) -> None:
    options = ("--host=0.0.0.0", "--http-port=9000", "--when-shard-fails=degrade")
    content = "{listen: {host: localhost, grpc_port: 7}, shards: {local_tables_mib: 4}}"
    config = settings_of(tmp_path, content, *options)
    assert config.listen.to_dict() == {"host": "0.0.0.0", "http_port": 9_000, "grpc_port": 7}
    assert config.shards.to_dict() == {"when_shard_fails": "degrade", "local_tables_mib": 4}
    assert settings_of(tmp_path, content, "--local-tables-mib=40").shards.local_tables_mib == 40


@pytest.mark.parametrize(
    ("content", "option", "message"),
    [
        ("{}", "--when-shard-fails=wait", r"ranker\.yaml and the command line: shards\.when_shard_fails: .*'wait'"),
        ("{}", "--grpc-port=many", r"ranker\.yaml and the command line: listen\.grpc_port: .*'many'"),
        ("listen: 8080", "--host=0.0.0.0", r"listen: expected settings, each as `key: value` \(found 8080\)"),
        ("- listen", "--host=0.0.0.0", r"\(top level\): expected settings, each as `key: value`"),
        ("host: 0.0.0.0", "--host=0.0.0.0", r"host is no longer a setting: set listen\.host"),
    ],
)
def test_a_wrong_value_is_refused_by_its_place(tmp_path: Path, content: str, option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(tmp_path, content, option)
