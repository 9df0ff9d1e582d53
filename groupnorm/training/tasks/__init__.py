"""What each task calls a batch, a loss and an evaluation."""
