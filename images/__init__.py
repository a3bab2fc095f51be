"""Build the images of the Dockerfile and test them."""
