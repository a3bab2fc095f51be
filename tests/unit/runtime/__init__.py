"""Tests of the runtime room; none needs more than the room itself needs."""
