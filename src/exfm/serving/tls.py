"""Certificates for connections between rankers and shards, from files that may be replaced at any time.

A folder has the files of a Secret of type kubernetes.io/tls: tls.crt (the server's certificate and intermediate ones),
tls.key, ca.crt (the authorities of the other end's certificate).
"""

import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import Counter

from exfm.errors import ConfigError

logger = logging.getLogger(__name__)

REFUSED = Counter(
    "exfm_tls_refused_reads",
    "Reads of certificates that were missing or did not match; the previous ones stayed in use",
)

CERTIFICATE, KEY, AUTHORITIES = "tls.crt", "tls.key", "ca.crt"


@dataclass(frozen=True)
class TlsFiles:
    """The content of the three files."""

    certificate: bytes
    key: bytes = field(repr=False)
    authorities: bytes


def read_tls(folder: Path) -> TlsFiles:
    """Return the files in a folder, after a check that key and certificate match.

    Raises: ConfigError, which names the file that is missing, unreadable or does not match.
    """
    place = _place(folder)
    before = _read(place)
    _check(place)
    if _read(place) != before:
        raise ConfigError(f"{folder}: the files changed while they were read; try again")
    return before


class TlsFolder:
    """A folder's files as last read completely, for a server that runs while they are replaced."""

    def __init__(self, folder: Path) -> None:
        """Read the files.

        Raises: ConfigError.
        """
        self._folder = folder
        self._written = _written(folder)
        self._files = read_tls(folder)
        self._complaint = ""

    def files(self) -> TlsFiles:
        """Return the current files; the previous ones, with a log line, while the files are incomplete.

        Only changed files are read again: reading and checking takes time of the event loop.
        """
        written = _written(self._folder)
        if written and written == self._written:
            return self._files
        try:
            files = read_tls(self._folder)
        except ConfigError as error:
            REFUSED.inc()
            if str(error) != self._complaint:
                logger.warning("the previous certificate stays in use: %s", error)
            self._complaint = str(error)
            return self._files
        if files != self._files:
            logger.info("%s: the new certificate is in use", self._folder)
        self._files, self._written, self._complaint = files, written, ""
        return files


def _written(folder: Path) -> tuple[tuple[int, int], ...]:
    """Return the files' inodes and times of change; empty if a file is missing."""
    try:
        place = _place(folder)
        found = [(place / name).stat() for name in (CERTIFICATE, KEY, AUTHORITIES)]
    except OSError:
        return ()
    return tuple((one.st_ino, one.st_mtime_ns) for one in found)


def server_credentials(folder: TlsFolder) -> Any:
    """Return gRPC's credentials of a server that refuses clients without a certificate.

    Each handshake uses the current files.
    """

    def current() -> Any:
        files = folder.files()
        own = [(files.key, files.certificate)]
        return grpc.ssl_server_certificate_configuration(own, root_certificates=files.authorities)

    return grpc.dynamic_ssl_server_credentials(current(), current, require_client_authentication=True)


def _place(folder: Path) -> Path:
    """Return the real folder of the files: Kubernetes replaces all three at once by changing a link."""
    links = folder / "..data"
    return links.resolve() if links.is_symlink() else folder


def _read(place: Path) -> TlsFiles:
    def content(name: str) -> bytes:
        try:
            return (place / name).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{place / name}: cannot be read ({error.strerror}); a folder for TLS holds {CERTIFICATE}, {KEY} and "
                f"{AUTHORITIES}"
            ) from error

    return TlsFiles(certificate=content(CERTIFICATE), key=content(KEY), authorities=content(AUTHORITIES))


def _check(place: Path) -> None:
    def no_password() -> str:
        raise ConfigError(f"{place / KEY}: is encrypted; a server needs a key without a password")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(place / CERTIFICATE, place / KEY, password=no_password)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"{place}: {CERTIFICATE} and {KEY} are not a certificate and its key ({error.strerror}); write both again"
        ) from error
    try:
        context.load_verify_locations(place / AUTHORITIES)
    except OSError as error:
        raise ConfigError(
            f"{place / AUTHORITIES}: has no certificate in PEM form ({error.strerror}); write the authorities there"
        ) from error
