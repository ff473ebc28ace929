"""Finite tables, understood long after they are memorised."""
