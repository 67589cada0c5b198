from . import alerts as alerts
from . import anonymise as anonymise
from . import explain as explain
from . import label as label
from . import report as report
from . import terminal as terminal
from . import units as units
from .terminal import printable as printable
