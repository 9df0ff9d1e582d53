"""Networks that classify video clips."""
