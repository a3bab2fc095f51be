"""The tests of every part."""
