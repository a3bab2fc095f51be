"""Where weights come from: one source a file, each giving a ready network and what its clients must know."""
