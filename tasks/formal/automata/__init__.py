"""Semiautomata: what follows them in few layers, by hand and by training."""
