"""Image files, decoded in worker processes."""
