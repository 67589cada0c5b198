"""Zeek's log format both ways."""
