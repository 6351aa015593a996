"""References to a version of a table, by which stages name what they read."""

from deltalake.exceptions import TableNotFoundError
from pydantic import Field

from exfm.config import Config
from exfm.errors import StorageError
from exfm.tables.table import Table, TableState, asking


class TableRef(Config):
    """One version of a table, which stays what it is whatever is committed later."""

    table: str
    """URI of the table."""
    version: int = Field(ge=0)
    """Number of the version."""

    def state(self) -> TableState:
        """Return that very version.

        Raises: StorageError if it is not there, or not any more, or the store does not answer.
        """
        table = Table(self.table, {})
        opened = table.open()
        if opened is None:
            raise StorageError(f"{self.table}: no table there; run the stage that writes it")
        newest = opened.version()
        if self.version > newest:
            raise StorageError(
                f"{self.table}: the newest version is {newest}, not {self.version}; was the table made again? Run the "
                "stage again that named this version"
            )
        with asking(self.table):
            try:
                opened.load_as_version(self.version)
            except TableNotFoundError as error:
                raise StorageError(
                    f"{self.table}: version {self.version} is gone, the newest is {newest}; run the stage again that "
                    "named this version, and let clean-ups keep versions longer"
                ) from error
        return TableState(table, opened)
