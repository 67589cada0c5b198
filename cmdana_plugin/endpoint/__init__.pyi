from .broker import bindings as bindings
from .live import run as run
from .websocket import WebSocketTransport as WebSocketTransport
from .zeek_replay import replay_through_zeek as replay_through_zeek
from .zeek_replay import scripts_folder as scripts_folder
from .zeek_replay import zeek_program as zeek_program
