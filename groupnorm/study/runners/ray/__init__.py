"""Running the trials of a plan on a Ray cluster."""
