"""Detectors on torchvision's detection parts, with a norm of choice in each place."""
