from .fields import names as names
from .flows import Flows as Flows
from .flows import concat_flows as concat_flows
from .flows import flow_rows as flow_rows
from .flows import flows_of as flows_of
from .flows import take_flows as take_flows
from .streams import Bounds as Bounds
from .streams import Streams as Streams
