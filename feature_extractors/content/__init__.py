"""Payload segments in, log entries and services out."""
