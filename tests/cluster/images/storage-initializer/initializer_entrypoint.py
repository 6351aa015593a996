"""Copy each model to where its server looks for it, as KServe's own initializer-entrypoint does.

python3 -m initializer_entrypoint URI DESTINATION [URI DESTINATION ...]
"""

import sys

from kserve_storage import Storage
from kserve_storage.logging import configure_logging, logger


def main() -> None:
    """Copy what the command line names; exit code 1 and a log line if that fails."""
    uris, destinations = sys.argv[1::2], sys.argv[2::2]
    if not uris or len(uris) != len(destinations):
        sys.exit("usage: initializer_entrypoint URI DESTINATION [URI DESTINATION ...]")
    configure_logging()
    try:
        Storage.download_files(uris, destinations)
    except Exception:
        logger.exception("copying %s to %s failed", uris, destinations)
        sys.exit(1)


if __name__ == "__main__":
    main()
