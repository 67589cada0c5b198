"""Captures and records in, numbers out: no torch, no transport."""
