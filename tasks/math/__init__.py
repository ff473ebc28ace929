"""Word problems answered by short Python programs: generator, interpreter, scorers, GSM8K."""
