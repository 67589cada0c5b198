from . import command as command
