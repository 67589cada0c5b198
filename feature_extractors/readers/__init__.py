"""Readers: a capture, or a directory of Zeek logs, as blocks of columns."""
