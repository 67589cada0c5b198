from .broker import bindings as bindings
from .live import replay_through_zeek as replay_through_zeek
from .live import run as run
from .live import scripts_folder as scripts_folder
from .live import zeek_program as zeek_program
from .websocket import WebSocketTransport as WebSocketTransport
