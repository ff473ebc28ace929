"""Formal languages and finite algebra."""
