"""The C++ kernels for the CPU."""
