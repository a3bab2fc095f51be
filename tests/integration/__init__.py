"""Tests with the real server and the real compilers."""
