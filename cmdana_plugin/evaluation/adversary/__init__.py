"""An attacker who changes what it sends: perturbations by a list, and a search against one detector."""
