"""What `groupnorm convert` does beside the conversion: the network, its weights, a comparison."""
