"""Images that are made, not read."""
