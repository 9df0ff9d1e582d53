"""Networks for image classification."""
