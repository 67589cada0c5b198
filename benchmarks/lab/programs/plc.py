"""A programmable controller: a Modbus/TCP server whose registers hold a little plant."""

# Runs under Debian's python3 with its pymodbus 3.0, whose names changed later.
# mypy: ignore-errors

from __future__ import annotations

import random

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartTcpServer

if __name__ == "__main__":
    block = ModbusSequentialDataBlock(0, [random.randrange(1000) for _ in range(400)])
    coils = ModbusSequentialDataBlock(0, [False] * 400)
    context = ModbusServerContext(
        slaves=ModbusSlaveContext(di=coils, co=coils, hr=block, ir=block), single=True
    )
    StartTcpServer(context=context, address=("0.0.0.0", 502))
