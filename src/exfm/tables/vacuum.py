"""Files that no kept version of a table has are removed, by delta-rs."""

from exfm.tables.table import Table, asking

SECONDS_PER_HOUR = 3600


def vacuum(table: Table, *, keep_s: int) -> None:
    """Remove files that were taken out of a table, or were written and never got into it, at least `keep_s` ago.

    A version that is younger can still be read. The table's log has two entries more, whether there was a file or not.

    Raises: StorageError if the store refuses.
    """
    opened = table.open()
    if opened is not None:
        table.on_step(f"vacuum {table.name}")
        hours = -(-keep_s // SECONDS_PER_HOUR)
        with asking(table.uri):
            opened.vacuum(retention_hours=hours, dry_run=False, enforce_retention_duration=False, full=True)
