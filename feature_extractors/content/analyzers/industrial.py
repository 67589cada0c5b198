"""Modbus/TCP and DNP3: every message by its function, as modbus.log and dnp3.log have them.

Mirrors src/analyzer/protocol/{modbus,dnp3} and scripts/base/protocols/{modbus,dnp3}/main.zeek of Zeek 8.2.2.
"""

from __future__ import annotations

from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import Analyzer, Fields, Framed, ParseError, Session

_MODBUS: Final = {
    0x01: "READ_COILS", 0x02: "READ_DISCRETE_INPUTS", 0x03: "READ_HOLDING_REGISTERS", 0x04: "READ_INPUT_REGISTERS",
    0x05: "WRITE_SINGLE_COIL", 0x06: "WRITE_SINGLE_REGISTER", 0x07: "READ_EXCEPTION_STATUS", 0x08: "DIAGNOSTICS",
    0x0B: "GET_COMM_EVENT_COUNTER", 0x0C: "GET_COMM_EVENT_LOG", 0x0F: "WRITE_MULTIPLE_COILS",
    0x10: "WRITE_MULTIPLE_REGISTERS", 0x11: "REPORT_SLAVE_ID", 0x14: "READ_FILE_RECORD", 0x15: "WRITE_FILE_RECORD",
    0x16: "MASK_WRITE_REGISTER", 0x17: "READ_WRITE_MULTIPLE_REGISTERS", 0x18: "READ_FIFO_QUEUE",
    0x2B: "ENCAP_INTERFACE_TRANSPORT", 0x5B: "OBJECT_MESSAGING", 0x09: "PROGRAM_484", 0x0A: "POLL_484",
    0x0D: "PROGRAM_584_984", 0x0E: "POLL_584_984", 0x12: "PROGRAM_884_U84", 0x13: "RESET_COMM_LINK_884_U84",
    0x28: "PROGRAM_CONCEPT", 0x29: "MULTIPLE_FUNCTION_CODES", 0x5A: "PROGRAM_UNITY", 0x7D: "FIRMWARE_REPLACEMENT",
    0x7E: "PROGRAM_584_984_2", 0x7F: "REPORT_LOCAL_ADDRESS",
}  # fmt: skip
_EXCEPTIONS: Final = {
    1: "ILLEGAL_FUNCTION", 2: "ILLEGAL_DATA_ADDRESS", 3: "ILLEGAL_DATA_VALUE", 4: "SLAVE_DEVICE_FAILURE",
    5: "ACKNOWLEDGE", 6: "SLAVE_DEVICE_BUSY", 8: "MEMORY_PARITY_ERROR", 10: "GATEWAY_PATH_UNAVAILABLE",
    11: "GATEWAY_TARGET_DEVICE_FAILED_TO_RESPOND",
}  # fmt: skip
_DNP3: Final = {
    0x00: "CONFIRM", 0x01: "READ", 0x02: "WRITE", 0x03: "SELECT", 0x04: "OPERATE", 0x05: "DIRECT_OPERATE",
    0x06: "DIRECT_OPERATE_NR", 0x07: "IMMED_FREEZE", 0x08: "IMMED_FREEZE_NR", 0x09: "FREEZE_CLEAR",
    0x0A: "FREEZE_CLEAR_NR", 0x0B: "FREEZE_AT_TIME", 0x0C: "FREEZE_AT_TIME_NR", 0x0D: "COLD_RESTART",
    0x0E: "WARM_RESTART", 0x0F: "INITIALIZE_DATA", 0x10: "INITIALIZE_APPL", 0x11: "START_APPL", 0x12: "STOP_APPL",
    0x13: "SAVE_CONFIG", 0x14: "ENABLE_UNSOLICITED", 0x15: "DISABLE_UNSOLICITED", 0x16: "ASSIGN_CLASS",
    0x17: "DELAY_MEASURE", 0x18: "RECORD_CURRENT_TIME", 0x19: "OPEN_FILE", 0x1A: "CLOSE_FILE", 0x1B: "DELETE_FILE",
    0x1C: "GET_FILE_INFO", 0x1D: "AUTHENTICATE_FILE", 0x1E: "ABORT_FILE", 0x1F: "ACTIVATE_CONFIG",
    0x20: "AUTHENTICATE_REQ", 0x21: "AUTHENTICATE_REQ_NR", 0x81: "RESPONSE", 0x82: "UNSOLICITED_RESPONSE",
    0x83: "AUTHENTICATE_RESP",
}  # fmt: skip


def modbus_function(code: int) -> str:
    """The name of a function code; of an exception, that of the function it refuses."""
    base = code & 0x7F
    if code >= 0x80 and base in _MODBUS:
        return _MODBUS[base] + "_EXCEPTION"
    return _MODBUS.get(code) or f"unknown-{code}"


class Modbus(Analyzer):
    """One entry per message of either side."""

    service: ClassVar[str] = "modbus"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(66000), Framed(66000))

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        stream = self._streams[is_orig]
        stream.feed(data)
        while (head := stream.peek(8)) is not None:
            length = head[4] << 8 | head[5]
            if head[2] or head[3] or length < 2:
                raise ParseError("not_modbus")
            message = stream.take(6 + length)
            if message is None:
                return
            code = message[7]
            fields: Fields = {
                "tid": message[0] << 8 | message[1], "unit": message[6],
                "func": modbus_function(code), "pdu_type": "REQ" if is_orig else "RESP",
            }  # fmt: skip
            if code >= 0x80:
                if is_orig or len(message) < 9:
                    continue
                fields["exception"] = _EXCEPTIONS.get(message[8]) or f"unknown-{message[8]}"
            self.session.log("modbus", ts, fields)
            self.session.confirm(self.service)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA6BC if crc & 1 else crc >> 1
        table.append(crc)
    return table


_CRC: Final = _crc_table()


def dnp3_crc(data: bytes) -> int:
    """CRC-16/DNP of the data (IEEE 1815, 9.2)."""
    crc = 0
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFF


class Dnp3(Analyzer):
    """Requests with their replies, by function; DNP3's own segments are joined only as far as the header needs."""

    service: ClassVar[str] = "dnp3_tcp"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(66000), Framed(66000))
        self._entry: Fields | None = None  # a request without a reply, and when it came
        self._ts = 0.0
        self._started: list[bytes] = [b"", b""]

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        stream = self._streams[is_orig]
        stream.feed(data)
        while (head := stream.peek(10)) is not None:
            if head[:2] != b"\x05\x64":
                self.stop()
                return
            if dnp3_crc(head[:8]) != (head[8] | head[9] << 8):
                raise ParseError("broken_checksum")
            user = head[2] - 5
            chunks = -(-user // 16) if user > 0 else 0
            frame = stream.take(10 + max(user, 0) + 2 * chunks)
            if frame is None:
                return
            self.session.confirm(self.service)
            if user > 0:
                self._frame(is_orig, ts, frame[10:], user)

    def _frame(self, is_orig: bool, ts: float, blocks: bytes, user: int) -> None:
        joined = b""
        for start in range(0, len(blocks), 18):
            block = blocks[start : start + 18]
            if dnp3_crc(block[:-2]) != (block[-2] | block[-1] << 8):
                self.stop()
                return
            joined += block[:-2]
        transport, content = joined[0], joined[1:]
        if transport & 0x40:
            self._started[is_orig] = content[:8]
        elif len(self._started[is_orig]) < 8:
            self._started[is_orig] = (self._started[is_orig] + content)[:8]
        if transport & 0x80:
            head, self._started[is_orig] = self._started[is_orig], b""
            self._application(is_orig, ts, head)

    def _application(self, is_orig: bool, ts: float, head: bytes) -> None:
        if len(head) < 2:
            return
        name = _DNP3.get(head[1]) or f"unknown-{head[1]}"
        entry = self._entry
        if is_orig:
            self._entry = {**entry, "fc_request": name} if entry else {"fc_request": name}
            self._ts = ts
        elif len(head) >= 4:
            reply: Fields = {**(entry or {}), "fc_reply": name, "iin": head[2] << 8 | head[3]}
            self.session.log("dnp3", ts, reply)
            self._entry = None

    def end(self) -> None:
        if self._entry is not None:
            self.session.log("dnp3", self._ts, self._entry)


class Dnp3Udp(Dnp3):
    """DNP3 over datagrams."""

    service: ClassVar[str] = "dnp3_udp"
