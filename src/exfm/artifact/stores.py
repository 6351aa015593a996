"""Stores by URI: this machine's file system, or any that fsspec reaches, such as S3."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from exfm.errors import StorageError

_S3_OPTIONS = {"config_kwargs": {"connect_timeout": 2, "retries": {"max_attempts": 2}}}
"""An endpoint that is away is told within about 10 s; botocore's own patience is minutes."""


def filesystem_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system that a URI lies in, without what it remembers of listings, and the path there.

    Raises: StorageError if nothing here can reach it.
    """
    options: dict[str, Any] = _S3_OPTIONS if uri.startswith("s3://") else {}
    try:
        filesystem, path = fsspec.core.url_to_fs(uri, **options)
    except (ImportError, ValueError) as error:  # an unknown scheme, or a store whose client is not installed
        raise StorageError(f"{uri}: {error}; name a folder or an s3:// URL") from error
    filesystem.invalidate_cache()  # of listings: another process may have written since
    return filesystem, path


def entries(uri: str) -> list[dict[str, Any]]:
    """Return what lies directly in a folder, as fsspec describes it; nothing if the folder is not there.

    Raises: StorageError if the store does not say.
    """
    with telling(uri):
        filesystem, path = filesystem_of(uri)
        try:
            found: list[dict[str, Any]] = filesystem.ls(path, detail=True)
        except FileNotFoundError:
            return []
    return [item | {"name": item["name"].rstrip("/").rpartition("/")[2]} for item in found]


@contextmanager
def telling(uri: str) -> Iterator[None]:
    """Turn what a file system or an object store raises into a StorageError that names the URI."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: no such file; run the stage that writes it") from error
    except _store_errors() as error:
        raise StorageError(f"{uri}: {error}; check the path, the rights and the credentials") from error


def _store_errors() -> tuple[type[Exception], ...]:
    try:
        from botocore.exceptions import BotoCoreError  # an S3 client's own errors are no OSErrors
    except ImportError:
        return (OSError,)
    return (OSError, BotoCoreError)
