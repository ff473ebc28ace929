"""Chains of look-ups and paths in graphs."""
