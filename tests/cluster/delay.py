"""A line that takes its time: ``python delay.py PORT TO_PORT MILLISECONDS`` holds bytes back so long, each way."""

from __future__ import annotations

import asyncio
import socket
import sys


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Copy what comes, later; as much as is under way at once."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def fill() -> None:
        while True:
            data = await reader.read(1 << 16)
            await queue.put((loop.time() + seconds, data))
            if not data:
                return

    filling = asyncio.ensure_future(fill())
    try:
        while True:
            due, data = await queue.get()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            if not data:
                break
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        filling.cancel()
        writer.close()


async def main(port: int, to_port: int, milliseconds: float) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", to_port)
        for one in (writer, to_writer):
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(carry(reader, to_writer, milliseconds / 1e3), carry(to_reader, writer, milliseconds / 1e3))

    server = await asyncio.start_server(serve, "0.0.0.0", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
