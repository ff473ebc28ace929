"""Models of other libraries: are they the same here."""
