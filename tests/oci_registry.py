"""A registry of images by TLS, as far as looking for one needs it."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trustme


class Registry(BaseHTTPRequestHandler):
    """Has `team/exfm:1`, for anybody with a token; `closed/exfm` for nobody here."""

    def do_HEAD(self) -> None:
        realm = f"https://{self.headers['Host']}/token"
        if self.headers.get("Authorization") != "Bearer of-all" or "/closed/" in self.path:
            challenge = f'Bearer realm="{realm}",service="registry",scope="repository:team/exfm:pull"'
            self._answer(401, **{"WWW-Authenticate": challenge})
        else:
            self._answer(200 if self.path == "/v2/team/exfm/manifests/1" else 404)

    def do_GET(self) -> None:
        assert self.path.startswith("/token?service=registry&scope=repository")
        self._answer(200, body=b'{"token": "of-all"}')

    def _answer(self, status: int, *, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *what: object) -> None:
        """Write nothing."""


@contextmanager
def running_registry() -> Iterator[tuple[str, str]]:
    """Yield a registry's host and port, and the file of the authority that vouches for it."""
    authority = trustme.CA()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with authority.cert_pem.tempfile() as trusted:
        yield f"localhost:{server.server_port}", trusted
    server.shutdown()
    thread.join()
    server.server_close()
