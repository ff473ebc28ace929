"""The language that word problems are written in."""
