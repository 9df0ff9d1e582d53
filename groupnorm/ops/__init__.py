"""Functions on tensors. Import from the modules: `groupnorm.ops.group_norm` is the operation."""
