"""`exfm explain`: what a setting means."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from exfm.config import Config


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain", rich_help_panel="Settings")(explain)


def explain(
    path: Annotated[
        str, typer.Argument(help="A setting or group, such as run.bundle.plan or ranker.limits; none: all files.")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Print all settings as Markdown: docs/settings.md.")] = False,
    gone: Annotated[
        bool, typer.Option("--removed", help="Print the removed settings of the servers, as YAML for the chart.")
    ] = False,
) -> None:
    """Print what a setting of a YAML file means: its type, range and default; for a group, each of its keys."""
    import yaml

    from exfm.settings import explained, reference, removed

    files = settings_files()
    if every:
        print(reference(files), end="")
    elif gone:
        servers = {name: files[name] for name in ("ranker", "shard")}
        print(yaml.safe_dump(removed(servers), width=1_000), end="")
    else:
        print("\n\n".join(explained(one, files) for one in ([path] if path else files)))


def settings_files() -> "dict[str, type[Config]]":
    """Return the models of the files that people write, by the first part of their settings' paths."""
    from exfm.deploy.config import DeployConfig
    from exfm.schema import Schema
    from exfm.serving.config import LocalConfig, RankerConfig, ShardConfig
    from exfm_components.run_config import RunConfig

    return {
        "run": RunConfig,
        "schema": Schema,
        "serve": LocalConfig,
        "ranker": RankerConfig,
        "shard": ShardConfig,
        "deploy": DeployConfig,
    }
