"""Every error that a caller of the extractors may want to catch, each with what was found and expected."""

from __future__ import annotations


class CmdanaError(Exception):
    """A fault whose message is one clear line for the operator."""


class CaptureError(CmdanaError):
    """A capture cannot be read at all: missing, empty, or no capture. Bad frames in it are counted instead."""


class SchemaError(CmdanaError):
    """`schema.yaml` is malformed, or a model was made with another one."""


class RecordError(CmdanaError):
    """A Zeek log or record cannot be read at all: no header, a missing column, a wrong type."""
