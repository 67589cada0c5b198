"""A capture in, Zeek's logs out, without Zeek."""
