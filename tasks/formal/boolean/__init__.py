"""Boolean functions, learned in a prompt or on a part of the cube."""
