"""Balanced brackets of bounded depth."""
