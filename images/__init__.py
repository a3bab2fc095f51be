"""Builds the images of the Dockerfile and proves them."""
