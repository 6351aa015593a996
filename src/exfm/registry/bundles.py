"""A bundle wherever it is: a folder, a remote store, or an alias in the registry."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exfm.artifact.storage import is_local, reading, ref_to


@contextmanager
def open_bundle(uri: str, *, root: str) -> Iterator[Path]:
    """Yield a local folder with the bundle at `uri`, or that `models:/NAME@ALIAS` names in the registry of `root`.

    Raises: StorageError if it is not there; ConfigError if the alias is malformed.
    """
    if uri.startswith("models:/"):
        from exfm.registry.mlflow_registry import Registry  # MLflow takes seconds to import

        registry = Registry.at(root, create=False)
        with registry.fetching(registry.resolve(uri)) as folder:
            yield folder
    elif is_local(uri):
        yield Path(uri)
    else:
        with reading(ref_to(uri)) as folder:
            yield folder
