"""The demonstration: every step of the pipeline, on a dialogue that is in no training set."""
