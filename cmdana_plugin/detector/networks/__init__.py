"""Networks that a model is made of by name, and the encoders that they share."""
