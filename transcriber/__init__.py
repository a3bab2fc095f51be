"""Online half: audio becomes text with speakers, as a client of the server."""
