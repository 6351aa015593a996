"""Domains of vertical models, checked against a log before anything is trained."""

from collections.abc import Sequence

from exfm.distill.config import VerticalConfig
from exfm.errors import ConfigError
from exfm.tables.table import TableState

NAMES_SHOWN = 20
"""Domains that a message lists: a wrong column may have millions."""


def require_domains(models: Sequence[VerticalConfig], rows: TableState, *, column: str, row: str) -> None:
    """Return if each domain of these models is in a column of a table, whose newest windows are read first.

    `row` is what a message calls a row of the table.

    Raises: ConfigError if a domain is not there; StorageError if a file is missing or damaged.
    """
    missing = {name for model in models for name in model.domains}
    known: set[str] = set()
    for window in sorted(rows.files, reverse=True):
        if not missing:
            return
        found = set(rows.read([window], columns=[column])[column].unique())
        known |= found
        missing -= found
    problems = [
        f"vertical model {model.name!r}: no {row} is of domain {', '.join(map(repr, unknown))}"
        for model in models
        if (unknown := [name for name in model.domains if name in missing])
    ]
    if problems:
        names = sorted(known)
        others = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        raise ConfigError(
            f"{'; '.join(problems)}; the log's domains are {', '.join(names[:NAMES_SHOWN])}{others}: correct `domains` "
            "of the vertical model"
        )
