"""Fast tests, one folder for each package."""
