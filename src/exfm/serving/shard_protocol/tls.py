"""Mutual TLS of a stream: both ends show a certificate."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from exfm.serving.tls import TlsFiles


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of a server that refuses clients without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of a client, which checks that a server's certificate has the name that it connects to."""
    return _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)


def _filled(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=files.authorities.decode("ascii", "ignore"))
    with _in_memory(files.certificate + b"\n" + files.key) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Yield the path of a file in memory only: OpenSSL loads an own certificate and key by path only."""
    descriptor = os.memfd_create("exfm-tls")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
