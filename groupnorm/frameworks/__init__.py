"""The operation for other frameworks than PyTorch, one package for each; torch stays unloaded."""
