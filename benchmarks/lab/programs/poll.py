"""A Modbus client: `read` as a control room does, `set` as an operator does, `flood` as an intruder does."""

# Runs under Debian's python3 with its pymodbus 3.0, whose names changed later.
# mypy: ignore-errors

from __future__ import annotations

import random
import sys
import time

from pymodbus.client import ModbusTcpClient


def main(verb: str, host: str, count: int, pause: float, seed: str) -> None:
    rng = random.Random(seed)
    client = ModbusTcpClient(host, port=502, timeout=2)
    client.connect()
    for _ in range(count):
        if verb == "read":
            client.read_holding_registers(rng.choice((0, 10, 40)), rng.choice((4, 10, 20)), slave=1)
            client.read_coils(0, 16, slave=1)
        elif verb == "set":
            client.read_holding_registers(40, 2, slave=1)
            client.write_register(rng.choice((40, 41)), rng.randrange(100, 200), slave=1)
        else:
            client.write_register(rng.randrange(0, 300), rng.randrange(0, 65_000), slave=1)
            client.write_coil(rng.randrange(0, 300), rng.random() < 0.5, slave=1)
        time.sleep(pause * rng.uniform(0.8, 1.2))
    client.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
