"""Online half: turn a bundle into a Triton model repository and a running server, or exit with an error."""
