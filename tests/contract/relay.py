"""A cable to a port on loopback, in a process of its own: `relay.py PORT`; SIGUSR1 cuts it, it can be used anew.

Not a thread, because Broker's bindings hold the interpreter's lock while they say goodbye over the cable.
"""

from __future__ import annotations

import asyncio
import signal
import sys


async def main(to: int) -> None:
    ends: set[asyncio.StreamWriter] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        sink.close()

    async def plug(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to)
        mine = {writer, far_writer}
        ends.update(mine)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        ends.difference_update(mine)

    def cut() -> None:
        for end in ends:
            end.transport.abort()

    server = await asyncio.start_server(plug, "127.0.0.1", 0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, cut)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))
