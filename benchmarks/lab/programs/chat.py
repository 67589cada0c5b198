"""A person in a chat: joins over WebSocket, says something now and then, leaves."""

from __future__ import annotations

import asyncio
import random
import ssl
import sys

import websockets


async def main(url: str, ca: str, seconds: float, seed: str) -> None:
    rng = random.Random(seed)
    context = ssl.create_default_context(cafile=ca) if url.startswith("wss") else None
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    async with websockets.connect(url, ssl=context) as socket:
        while loop.time() < end:
            await socket.send("word " * rng.randrange(1, 40))
            await socket.recv()
            await asyncio.sleep(rng.expovariate(0.4))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]))
