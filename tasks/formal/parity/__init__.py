"""Parities of a few hidden bits, and what learns them."""
