"""The commands of `exfm`: its own, and those of distributions installed beside it."""

from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from exfm.errors import ConfigError

GROUP = "exfm.commands"
"""Entry points of this group name a `typer.Typer`; each is a command of `exfm`."""

PANEL = "Installed beside exfm"
"""The part of `exfm --help` that has these commands."""

RENAMED = {"trace": "profile", "ask": "smoke-test"}
"""Commands of earlier releases, and their new names."""

MISSING = {"bench": "exfm-bench, which production images leave out; in exfm's repository run: pip install ./benchmarks"}
"""Commands of distributions that exfm knows, and what to install."""


class Commands(TyperGroup):
    """Looks for a command among entry points only if exfm has no such command, because this takes time."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of exfm's own commands, then the others."""
        return [*super().list_commands(ctx), *sorted(entry_points(group=GROUP).names)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None if there is none of this name.

        Raises: ConfigError if it was renamed, or is not installed here.
        """
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        for entry_point in entry_points(group=GROUP, name=cmd_name):
            command: Any = typer.main.get_command(entry_point.load())
            command.rich_help_panel = PANEL
            return command
        if cmd_name in RENAMED:
            raise ConfigError(f"`exfm {cmd_name}` has a new name; run `exfm {RENAMED[cmd_name]}`")
        if cmd_name in MISSING:
            raise ConfigError(f"`exfm {cmd_name}` is not installed here; it comes with {MISSING[cmd_name]}")
        return None
