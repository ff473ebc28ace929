"""Arithmetic on strings of digits and numbers: length generalisation."""
