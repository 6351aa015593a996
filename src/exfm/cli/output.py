"""Where a command's files go."""

import os
from pathlib import Path

from exfm.errors import StorageError


def writable(out: str) -> Path:
    """Return where a file can be written, in a folder that is made if need be; so it is known before the work.

    Raises: StorageError if it cannot.
    """
    path = Path(out)
    if path.is_dir():
        raise StorageError(f"{path}: a folder is there; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: its folder cannot be made ({error.strerror}); name another place") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise StorageError(f"{path}: may not be written; check the rights, or name another place")
    return path
