"""A DNS server for tests, which gRPC asks by names of the form dns://127.0.0.1:PORT/name:port."""

import socket
import struct
import threading
from types import TracebackType
from typing import Self

IPV4, INTERNET, TTL_S = 1, 1, 0
NO_ERROR, NO_SUCH_NAME = 0x8180, 0x8183


class DnsServer:
    """Answers with the IPv4 addresses of `names`, which a test may change."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.num_questions = 0
        self.is_silent = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def address_of(self, name: str, port: int) -> str:
        """Return the address of a name as gRPC writes it."""
        return f"dns://127.0.0.1:{self._socket.getsockname()[1]}/{name}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.sendto(b"", self._socket.getsockname())  # ends the thread
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(512)
            if not question:
                return
            self.num_questions += 1
            if self.is_silent:
                continue
            self._socket.sendto(self._answer(question), client)

    def _answer(self, message: bytes) -> bytes:
        position, labels = 12, []
        while length := message[position]:
            labels.append(message[position + 1 : position + 1 + length].decode())
            position += 1 + length
        question = message[12 : position + 5]
        (kind,) = struct.unpack_from(">H", message, position + 1)
        addresses = self.names.get(".".join(labels))
        records = addresses if addresses and kind == IPV4 else []
        flags = NO_SUCH_NAME if addresses is None else NO_ERROR
        header = struct.pack(">2s5H", message[:2], flags, 1, len(records), 0, 0)
        name = b"\xc0\x0c"  # that of the question
        answers = [
            name + struct.pack(">HHIH", IPV4, INTERNET, TTL_S, 4) + socket.inet_aton(address) for address in records
        ]
        return header + question + b"".join(answers)
