"""Whether a written network computes what the network does in float64, by running it."""
