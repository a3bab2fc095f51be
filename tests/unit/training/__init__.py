"""Tests of training; those that synthesise speech are skipped without espeak-ng."""
