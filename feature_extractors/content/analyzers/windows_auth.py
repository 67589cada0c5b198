"""Kerberos, GSSAPI and NTLM: who asked for which service, alone or inside SMB and DCE-RPC.

Mirrors src/analyzer/protocol/{krb,gssapi,ntlm} and scripts/base/protocols/{krb,ntlm}/main.zeek of Zeek 8.2.2.
"""

from __future__ import annotations

from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import (
    Analyzer,
    Fields,
    Framed,
    ParseError,
    Reader,
    Session,
    text,
)
from feature_extractors.content.analyzers.der import Item, integer, item, items, moment, value

_ERRORS: Final = {
    0: "KDC_ERR_NONE", 1: "KDC_ERR_NAME_EXP", 2: "KDC_ERR_SERVICE_EXP", 3: "KDC_ERR_BAD_PVNO",
    4: "KDC_ERR_C_OLD_MAST_KVNO", 5: "KDC_ERR_S_OLD_MAST_KVNO", 6: "KDC_ERR_C_PRINCIPAL_UNKNOWN",
    7: "KDC_ERR_S_PRINCIPAL_UNKNOWN", 8: "KDC_ERR_PRINCIPAL_NOT_UNIQUE", 9: "KDC_ERR_NULL_KEY",
    10: "KDC_ERR_CANNOT_POSTDATE", 11: "KDC_ERR_NEVER_VALID", 12: "KDC_ERR_POLICY", 13: "KDC_ERR_BADOPTION",
    14: "KDC_ERR_ETYPE_NOSUPP", 15: "KDC_ERR_SUMTYPE_NOSUPP", 16: "KDC_ERR_PADATA_TYPE_NOSUPP",
    17: "KDC_ERR_TRTYPE_NOSUPP", 18: "KDC_ERR_CLIENT_REVOKED", 19: "KDC_ERR_SERVICE_REVOKED",
    20: "KDC_ERR_TGT_REVOKED", 21: "KDC_ERR_CLIENT_NOTYET", 22: "KDC_ERR_SERVICE_NOTYET",
    23: "KDC_ERR_KEY_EXPIRED", 24: "KDC_ERR_PREAUTH_FAILED", 25: "KDC_ERR_PREAUTH_REQUIRED",
    26: "KDC_ERR_SERVER_NOMATCH", 27: "KDC_ERR_MUST_USE_USER2USER", 28: "KDC_ERR_PATH_NOT_ACCEPTED",
    29: "KDC_ERR_SVC_UNAVAILABLE", 31: "KRB_AP_ERR_BAD_INTEGRITY", 32: "KRB_AP_ERR_TKT_EXPIRED",
    33: "KRB_AP_ERR_TKT_NYV", 34: "KRB_AP_ERR_REPEAT", 35: "KRB_AP_ERR_NOT_US", 36: "KRB_AP_ERR_BADMATCH",
    37: "KRB_AP_ERR_SKEW", 38: "KRB_AP_ERR_BADADDR", 39: "KRB_AP_ERR_BADVERSION", 40: "KRB_AP_ERR_MSG_TYPE",
    41: "KRB_AP_ERR_MODIFIED", 42: "KRB_AP_ERR_BADORDER", 44: "KRB_AP_ERR_BADKEYVER",
    45: "KRB_AP_ERR_NOKEY", 46: "KRB_AP_ERR_MUT_FAIL", 47: "KRB_AP_ERR_BADDIRECTION",
    48: "KRB_AP_ERR_METHOD", 49: "KRB_AP_ERR_BADSEQ", 50: "KRB_AP_ERR_INAPP_CKSUM",
    51: "KRB_AP_PATH_NOT_ACCEPTED", 52: "KRB_ERR_RESPONSE_TOO_BIG", 60: "KRB_ERR_GENERIC",
    61: "KRB_ERR_FIELD_TOOLONG", 62: "KDC_ERROR_CLIENT_NOT_TRUSTED", 63: "KDC_ERROR_KDC_NOT_TRUSTED",
    64: "KDC_ERROR_INVALID_SIG", 65: "KDC_ERR_KEY_TOO_WEAK", 66: "KDC_ERR_CERTIFICATE_MISMATCH",
    67: "KRB_AP_ERR_NO_TGT", 68: "KDC_ERR_WRONG_REALM", 69: "KRB_AP_ERR_USER_TO_USER_REQUIRED",
    70: "KDC_ERR_CANT_VERIFY_CERTIFICATE", 71: "KDC_ERR_INVALID_CERTIFICATE",
    72: "KDC_ERR_REVOKED_CERTIFICATE", 73: "KDC_ERR_REVOCATION_STATUS_UNKNOWN",
    74: "KDC_ERR_REVOCATION_STATUS_UNAVAILABLE", 75: "KDC_ERR_CLIENT_NAME_MISMATCH",
    76: "KDC_ERR_KDC_NAME_MISMATCH",
}  # fmt: skip
_CIPHERS: Final = {
    1: "des-cbc-crc", 2: "des-cbc-md4", 3: "des-cbc-md5", 5: "des3-cbc-md5", 7: "des3-cbc-sha1",
    9: "dsaWithSHA1-CmsOID", 10: "md5WithRSAEncryption-CmsOID", 11: "sha1WithRSAEncryption-CmsOID",
    12: "rc2CBC-EnvOID", 13: "rsaEncryption-EnvOID", 14: "rsaES-OAEP-ENV-OID", 15: "des-ede3-cbc-Env-OID",
    16: "des3-cbc-sha1-kd", 17: "aes128-cts-hmac-sha1-96", 18: "aes256-cts-hmac-sha1-96", 23: "rc4-hmac",
    24: "rc4-hmac-exp", 25: "camellia128-cts-cmac", 26: "camellia256-cts-cmac", 65: "subkey-keymaterial",
}  # fmt: skip
_IGNORED: Final = frozenset(
    ("NEEDED_PREAUTH", "KDC_ERR_PREAUTH_REQUIRED", "Response too big for UDP, retry with TCP")
)


class Kerberos(Analyzer):
    """Kerberos over datagrams: one entry per exchange and connection."""

    service: ClassVar[str] = "krb"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._entry: Fields | None = None
        self._logged = False

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        self.message(ts, data)

    def message(self, ts: float, data: bytes) -> None:
        """One whole message. Raises `ParseError`."""
        outer = item(data, 0, len(data))
        kind = outer[0] & 0x1F
        if outer[0] & 0xE0 != 0x60 or kind not in (10, 11, 12, 13, 14, 15, 20, 21, 22, 30):
            return
        body = next(items(outer), None)
        if body is None:
            raise ParseError("message_too_short")
        parts = {part[0]: part for part in items(body)}
        self.session.confirm(self.service)
        if self._logged:
            return
        if kind in (10, 12):
            self._request(self._log(ts), kind, parts)
        elif kind in (11, 13):
            self._reply(self._log(ts), parts)
            self._logged = True
        elif kind == 30:
            self._error(ts, parts)
        elif kind == 14:
            self._log(ts)

    def _log(self, ts: float) -> Fields:
        if self._entry is None:
            self._entry = self.session.log("kerberos", ts, {})
            if not self.session.first("kerberos"):
                self.session.at(self._entry, -1.0)
        return self._entry

    def _request(self, entry: Fields, kind: int, parts: dict[int, Item]) -> None:
        entry["request_type"] = "AS" if kind == 10 else "TGS"
        if 0xA4 not in parts:
            raise ParseError("no_request_body")
        sequence = next(items(parts[0xA4]), None)
        if sequence is None:
            raise ParseError("no_request_body")
        body = {part[0]: part for part in items(sequence)}
        realm = text(_inner(body.get(0xA2)))
        if kind == 10:
            entry["client"] = f"{_principal(body.get(0xA1))}/{realm}"
        if 0xA3 in body:
            entry["service"] = _principal(body[0xA3])
        for tag, name in ((0xA4, "from"), (0xA5, "till")):
            if tag in body:
                inner = next(items(body[tag]), None)
                if inner is not None:
                    entry[name] = moment(inner)
        options = _inner(body.get(0xA0))
        if len(options) >= 3:
            entry["forwardable"] = bool(options[1] & 0x40)
            entry["renewable"] = bool(options[2] & 0x80)

    def _reply(self, entry: Fields, parts: dict[int, Item]) -> None:
        if "client" not in entry:
            entry["client"] = f"{_principal(parts.get(0xA4))}/{text(_inner(parts.get(0xA3)))}"
        ticket = parts.get(0xA5)
        if ticket is None:
            raise ParseError("no_ticket")
        sequence = next(items(next(items(ticket), ticket)), None)
        if sequence is None:
            raise ParseError("no_ticket")
        inside = {part[0]: part for part in items(sequence)}
        if 0xA2 in inside:
            entry["service"] = _principal(inside[0xA2])
        if 0xA3 in inside:
            encrypted = next(items(inside[0xA3]), None)
            kinds = {part[0]: part for part in items(encrypted)} if encrypted else {}
            if 0xA0 in kinds:
                cipher = integer(next(items(kinds[0xA0]), kinds[0xA0]))
                entry["cipher"] = _CIPHERS.get(cipher) or f"unknown-{cipher}"
        entry["success"] = True

    def _error(self, ts: float, parts: dict[int, Item]) -> None:
        said = text(_inner(parts[0xAB])) if 0xAB in parts else None
        if said in _IGNORED:
            if self._entry is not None:
                self._entry.clear()
                self.session.at(self._entry, -1.0)
                self._entry = None
            return
        entry = self._log(ts)
        if "client" not in entry and (0xA7 in parts or 0xA8 in parts):
            name = _principal(parts[0xA8]) + "/" if 0xA8 in parts else ""
            entry["client"] = name + text(_inner(parts.get(0xA7)))
        if 0xAA in parts:
            entry["service"] = _principal(parts[0xAA])
        entry["success"] = False
        code = integer(next(items(parts[0xA6]), parts[0xA6])) if 0xA6 in parts else 0
        message = said if said is not None else _ERRORS.get(code)
        if message is not None:
            entry["error_msg"] = message
        self._logged = True


def _inner(tagged: Item | None) -> bytes:
    inner = next(items(tagged), None) if tagged is not None else None
    return value(inner) if inner is not None else b""


def _principal(tagged: Item | None) -> str:
    """A principal's name of one to three parts joined by slashes; "unknown" with more, "" where there is none."""
    sequence = next(items(tagged), None) if tagged is not None else None
    if sequence is None:
        return ""
    for part in items(sequence):
        if part[0] == 0xA1:
            names = next(items(part), None)
            strings = [value(s) for s in items(names)] if names is not None else []
            return text(b"/".join(strings), 512) if 1 <= len(strings) <= 3 else "unknown"
    return ""


class KerberosTcp(Kerberos):
    """Kerberos over a stream, each message behind its length."""

    service: ClassVar[str] = "krb_tcp"
    needs_start: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(65536), Framed(65536))

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        stream = self._streams[is_orig]
        stream.feed(data)
        while (head := stream.peek(4)) is not None:
            whole = stream.take(4 + int.from_bytes(head, "big"))
            if whole is None:
                return
            self.message(ts, whole[4:])


class Gssapi(Analyzer):
    """SPNEGO tokens, each given whole; what they carry goes to Kerberos or NTLM."""

    service: ClassVar[str] = "gssapi"

    def __init__(self, session: Session, ntlm: Ntlm | None = None) -> None:
        super().__init__(session)
        self._ntlm = ntlm
        self._kerberos: Kerberos | None = None

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if len(data) < 2:
            raise ParseError("token_too_short")
        if data[0] << 8 | data[1] not in (0x0404, 0x0504):
            self._token(is_orig, ts, data)
        self.session.confirm(self.service)

    def _token(self, is_orig: bool, ts: float, data: bytes) -> None:
        outer = item(data, 0, len(data))
        inner: Item | None = outer
        is_init = outer[0] == 0x60
        if is_init:
            parts = list(items(outer))
            inner = parts[1] if len(parts) > 1 else None
        sequence = next(items(inner), None) if inner is not None else None
        if sequence is None:
            raise ParseError("token_too_short")
        for part in items(sequence):
            index = part[0] & 0x1F
            if index == 2:
                self._mechanism(is_orig, ts, _inner(part))
            elif index == 0 and not is_init:
                state = integer(next(items(part), part))
                if self._ntlm is not None and state != 1:
                    self._ntlm.result(state == 0)

    def _mechanism(self, is_orig: bool, ts: float, token: bytes) -> None:
        if token[:7] == b"NTLMSSP":
            if self._ntlm is None:
                self._ntlm = Ntlm(self.session)
            self.session.feed(self._ntlm, is_orig, ts, token)
            return
        if token[:1] == b"\x60":
            outer = item(token, 0, len(token))
            oid = next(items(outer), None)
            if oid is None:
                return
            token = token[min(oid[3] + 2, outer[3]) : outer[3]]  # mypyc cuts nothing backwards
        elif token[:1] not in (b"\x6e", b"\x6f"):
            return
        if self._kerberos is None:
            self._kerberos = Kerberos(self.session)
        self.session.feed(self._kerberos, is_orig, ts, token)


_TARGETS: Final = {1: "server_nb_computer_name", 3: "server_dns_computer_name", 5: "server_tree_name"}


class Ntlm(Analyzer):
    """NTLMSSP messages, each given whole: who logs on from where to which server, and whether it worked."""

    service: ClassVar[str] = "ntlm"
    forgiven: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._entry: Fields | None = None
        self._done = False

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        reader = Reader(data)
        reader.skip(8)  # Zeek reads what it is given as NTLM without asking for the signature
        kind = reader.u32le()
        if self._entry is None and kind in (1, 2, 3):
            self._entry = self.session.log("ntlm", ts, {})
            if not self.session.first("ntlm"):
                self.session.at(self._entry, -1.0)
        if kind == 2:
            self._challenge(reader, data)
        elif kind == 3:
            self._authenticate(reader, data)
        self.session.confirm(self.service)

    def result(self, success: bool) -> None:
        if self._entry is not None and not self._done:
            self._entry["success"] = success
            self._done = True

    def _challenge(self, reader: Reader, data: bytes) -> None:
        reader.skip(8)
        flags = reader.u32le()
        reader.skip(16)
        if not flags & 0x00800000 or self._entry is None:
            return
        length = reader.u16le()
        reader.skip(2)
        start = reader.u32le()
        info = Reader(data, min(start, len(data)), min(start + length, len(data)))
        while info.left >= 4:
            kind = info.u16le()
            content = info.take(info.u16le())
            if kind == 0:
                break
            if kind in _TARGETS:
                self._entry[_TARGETS[kind]] = _utf16(content)

    def _authenticate(self, reader: Reader, data: bytes) -> None:
        reader.skip(16)
        spans = []
        for _ in range(3):
            length = reader.u16le()
            reader.skip(2)
            spans.append((reader.u32le(), length))
        reader.skip(8)
        flags = reader.u32le()
        if self._entry is None:
            return
        for name, (start, length) in zip(("domainname", "username", "hostname"), spans, strict=True):
            raw = data[start : start + length]
            if length and raw:
                self._entry[name] = _utf16(raw) if flags & 1 else text(raw, 512)


def _utf16(raw: bytes) -> str:
    return text(raw[:1024].decode("utf-16-le", "replace").rstrip("\0").encode("utf-8"))
