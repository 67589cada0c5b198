"""What trees learn of an attacker who changes what it sends."""
