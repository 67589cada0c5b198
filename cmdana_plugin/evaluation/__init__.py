"""Research: the protocol, its baselines, ablations and attacks; nothing but the command line imports it."""
