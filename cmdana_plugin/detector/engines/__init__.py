"""What computes the network at run time: our own compiled kernels on a processor, torch on a GPU and for ablations."""
