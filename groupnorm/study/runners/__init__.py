"""Running the trials of a plan."""
