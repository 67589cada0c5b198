"""What is compiled, and when it must be compiled anew."""
