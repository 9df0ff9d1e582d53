"""Networks as programs of torch.export, and rewritten in operators that runtimes have."""
