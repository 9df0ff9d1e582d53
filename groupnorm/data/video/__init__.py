"""Video data sets: clips of frames, out of memory or decoded from files."""
