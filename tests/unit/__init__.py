"""Fast tests of one room each."""
