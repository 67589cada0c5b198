"""The cross-modal network: the loss of one step of its training, and a training that was interrupted."""
