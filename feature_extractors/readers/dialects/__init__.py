"""What Zeek's logs look like out in the world, and how each dialect is read."""
