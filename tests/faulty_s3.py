"""An S3 server before another one, which refuses what it is told to refuse."""

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import unquote, urlsplit


class FaultyS3(ThreadingHTTPServer):
    """Passes requests on to `endpoint`, but for some."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = urlsplit(endpoint).netloc
        self.code, self.method, self.part, self.left = 503, "", "", 0
        self.num_refused = 0
        self.num_bytes: Counter[str] = Counter()
        """Bytes that were read, by path."""

    def refuse(self, method: str, part: str, *, code: int, times: int = 1_000_000) -> None:
        """Refuse the next requests of a method whose path has a part."""
        self.method, self.part, self.code, self.left = method, part, code, times

    def refuses(self, method: str, path: str) -> bool:
        """Return whether this request is refused, and count it."""
        if self.left == 0 or method != self.method or self.part not in unquote(path):
            return False
        self.left -= 1
        self.num_refused += 1
        return True


class _Handler(BaseHTTPRequestHandler):
    server: FaultyS3
    protocol_version = "HTTP/1.1"
    REASONS: ClassVar = {503: "ServiceUnavailable", 403: "AccessDenied"}

    def answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.refuses(self.command, self.path):
            reason = self.REASONS[self.server.code]
            body = f"<Error><Code>{reason}</Code><Message>not now</Message></Error>".encode()
            self.reply(self.server.code, {"Content-Length": str(len(body))}, body)
            return
        upstream = http.client.HTTPConnection(self.server.endpoint, timeout=30)
        upstream.request(self.command, self.path, content, dict(self.headers))
        found = upstream.getresponse()
        body = found.read()
        if self.command == "GET":
            self.server.num_bytes[unquote(self.path)] += len(body)
        headers = {name: value for name, value in found.getheaders() if name not in ("Connection", "Server", "Date")}
        self.reply(found.status, headers, body)
        upstream.close()

    def reply(self, code: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def running_faulty_s3(endpoint: str) -> Iterator[FaultyS3]:
    """Yield a server, which refuses nothing yet."""
    with FaultyS3(endpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
