"""The demonstration: every room in turn, on a dialogue that nobody trained on."""
