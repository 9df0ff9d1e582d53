"""What is measured on evaluation images after an epoch."""
