"""A stand-in for PtychoPINN's PyTorch package; see the README beside it."""
