"""Real time: the WebSocket /v2, on which audio comes in and transcripts go out."""

from service.realtime.routes import part

__all__ = ["part"]
