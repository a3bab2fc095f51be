"""Tests of the real-time protocol."""
