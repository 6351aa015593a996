"""Certificates for connections between rankers and shards, from files that may be replaced at any time.

A folder has the files of a Secret of type kubernetes.io/tls: tls.crt (the server's certificate and intermediate ones),
tls.key, ca.crt (the authorities of the other end's certificate).
"""

import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
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
    files = _read(place)
    _check(files, place)
    return files


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


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of a stream's server that refuses clients without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of a client, which checks that a server's certificate has the name that it connects to."""
    return _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)


def _filled(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_authorities(context, files)
    _load_own(context, files)
    return context


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


def _check(files: TlsFiles, place: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        _load_own(context, files, source=place)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"{place}: {CERTIFICATE} and {KEY} are not a certificate and its key ({error.strerror}); write both again"
        ) from error
    try:
        _load_authorities(context, files)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{place / AUTHORITIES}: has no certificate in PEM form ({error}); write the authorities there"
        ) from error


def _load_authorities(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.load_verify_locations(cadata=files.authorities.decode("ascii", "ignore"))


def _load_own(context: ssl.SSLContext, files: TlsFiles, *, source: Path = Path()) -> None:
    def no_password() -> str:
        raise ConfigError(f"{source / KEY}: is encrypted; a server needs a key without a password")

    with _in_memory(files.certificate + b"\n" + files.key) as path:
        context.load_cert_chain(path, password=no_password)


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Yield the path of a file in memory only: OpenSSL loads an own certificate and key by path only."""
    descriptor = os.memfd_create("exfm-tls")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
