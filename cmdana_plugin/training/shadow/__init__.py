"""Shadow models: learned at night from quarantined days, tried beside the model that judges, taken over or not."""
