"""The page: drop a recording or speak, and read, play, search and save the transcript in a browser."""

from service.page.routes import part

__all__ = ["part"]
