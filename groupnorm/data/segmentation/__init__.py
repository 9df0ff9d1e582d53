"""Images with a label for each pixel."""
