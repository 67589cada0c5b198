from .export import Order as Order
from .export import export as export
