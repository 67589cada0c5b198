from .analyzers.base import ContentLimits as ContentLimits
from .reassembly import Content as Content
from .reassembly import Row as Row
from .segments import Segments as Segments
from .segments import Wanted as Wanted
