from . import command as command
from . import shadow as shadow
