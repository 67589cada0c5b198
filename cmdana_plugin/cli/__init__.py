"""The command line: each command a thin layer over a typed function."""
