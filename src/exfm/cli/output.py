"""Where a command's files go."""

import os
from pathlib import Path

from exfm.errors import StorageError


def writable(out: str) -> Path:
    """Return the path of a file that can be written, and make its folder; commands call it before they work.

    Raises: StorageError if the file cannot be written, or is not on this machine.
    """
    path = here(out)
    if path.is_dir():
        raise StorageError(f"{path}: is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: its folder cannot be created ({error.strerror}); name another place") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise StorageError(f"{path}: cannot be written; check its permissions, or name another place")
    return path


def here(out: str) -> Path:
    """Return a path on this machine.

    Raises: StorageError if it is a URL.
    """
    from exfm.artifact.stores import is_local

    if not is_local(out):
        raise StorageError(f"{out}: is written on this machine only; name a path, and copy the file afterwards")
    return Path(out)


def put(out: str, content: bytes) -> None:
    """Write a command's file: at a URL whole, here in place, where it may be a device such as /dev/stdout.

    Raises: StorageError if a URL cannot be written.
    """
    from exfm.artifact.stores import is_local, write_file

    if is_local(out):
        Path(out).write_bytes(content)
    else:
        write_file(out, content)
