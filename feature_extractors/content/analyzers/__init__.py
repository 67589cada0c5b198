"""Parsers of application protocols: from reassembled content to Zeek's log entries and `service`."""
