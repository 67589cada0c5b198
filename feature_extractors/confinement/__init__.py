"""What a process that meets hostile bytes gives up, and how other programs are called."""
