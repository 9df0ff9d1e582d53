"""One file a runtime: how to write a network for it, run what was written, and look into it."""
