"""`python -m cmdana_plugin.cli`, where the command itself is not on the PATH."""

from cmdana_plugin.cli.app import entry

entry()
