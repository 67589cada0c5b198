"""Intrusions that nobody made: a site's own connections, as an attacker would have them."""
