"""Carries TCP connections from listening sockets of the host's network into this one's.

    python3 -m e2e.cluster.relay FD=HOST:PORT ...

A socket belongs to the network namespace it was made in. So the host's side makes the listeners and
passes them on as descriptors, and neither an address nor a route is needed on the host.
"""

import asyncio
import contextlib
import socket
import sys

BLOCK = 1 << 18


async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copies until the end of `source`, which it passes on."""
    with contextlib.suppress(OSError):
        while block := await source.read(BLOCK):
            target.write(block)
            await target.drain()
        target.write_eof()


async def serve(listener: socket.socket, host: str, port: int) -> None:
    """Connects every caller of `listener` to `host:port`."""
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port, limit=BLOCK)
            try:
                await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))
            finally:
                far_writer.close()
        except OSError:
            pass  # nobody there: the caller sees the connection close
        finally:
            writer.close()

    server = await asyncio.start_server(connected, sock=listener, limit=BLOCK)
    await server.serve_forever()


async def main(words: list[str]) -> None:
    """Serves every `FD=HOST:PORT`."""
    servers = []
    for word in words:
        descriptor, _, target = word.partition("=")
        host, port = target.rsplit(":", 1)
        servers.append(serve(socket.socket(fileno=int(descriptor)), host, int(port)))
    await asyncio.gather(*servers)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
