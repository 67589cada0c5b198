"""Frames in, connections and payload segments out, as Zeek tracks them."""
