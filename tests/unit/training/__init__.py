"""Tests of the training room; those that synthesise speech need espeak-ng and are skipped without it."""
