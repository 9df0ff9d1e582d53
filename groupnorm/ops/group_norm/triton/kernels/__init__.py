"""What `triton.jit` compiles."""
