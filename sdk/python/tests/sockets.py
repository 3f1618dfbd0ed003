"""Servers below gRPC that fail in ways in which none does on purpose."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

# An empty SETTINGS frame: what a client needs to believe that it is connected.
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
# More than a client's preface and settings, so the request is on its way.
REQUEST_BYTES = 250


Serve = Callable[[socket.socket, Callable[[], None]], None]


@contextlib.contextmanager
def listening(serve: Serve) -> Iterator[tuple[str, list[int]]]:
    """Serves connections until the block ends; gives the address, and a list with an item for each request that came."""
    seen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                serve(connection, lambda: seen.append(1))

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", seen
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def closes_after_the_request(connection: socket.socket, came: Callable[[], None]) -> None:
    """Takes a request and closes."""
    connection.sendall(SETTINGS)
    got = 0
    while got < REQUEST_BYTES and (piece := connection.recv(4096)):
        got += len(piece)
    if got < REQUEST_BYTES:
        raise ConnectionError("gone without a request")
    came()


def closes_after_headers(connection: socket.socket, came: Callable[[], None]) -> None:
    """Takes a request, begins an answer, and closes."""
    closes_after_the_request(connection, came)
    fields = [(b"content-type", b"application/grpc"), (b"date", b"Sun, 22 Nov 2026 13:04:18 GMT")]
    # RFC 7541: `:status: 200` of the static table, then literal fields without indexing.
    block = b"\x88" + b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields)
    connection.sendall(struct.pack(">I", len(block))[1:] + b"\x01\x04" + struct.pack(">I", 1) + block)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(4096):
        pass


def resets_after_the_request(connection: socket.socket, came: Callable[[], None]) -> None:
    """Takes a request and resets."""
    closes_after_the_request(connection, came)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent(connection: socket.socket, came: Callable[[], None]) -> None:
    """Takes requests and says nothing."""
    connection.sendall(SETTINGS)
    while connection.recv(4096):
        pass
