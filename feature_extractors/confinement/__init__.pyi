from . import confine as confine
from . import programs as programs
