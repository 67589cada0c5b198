from . import embedded as embedded
from . import reference as reference
from .embedded import extract as extract
from .embedded import limits_of as limits_of
from .embedded import merge_counts as merge_counts
from .embedded import sources as sources
from .reference import with_reference as with_reference
from .summary import Summary as Summary
