"""Define the tokens of the reference networks that are not text; other networks have others (contract/client.py)."""

BLANK, UNKNOWN, BOUNDARY = 0, 1, 2
RESERVED = (BLANK, UNKNOWN, BOUNDARY)
FIRST_WORD_TOKEN = 3
