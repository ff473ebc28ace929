"""How training itself behaves: growth by stacking, majority kernels."""
