"""OpenAI's endpoint for transcriptions: /v1/audio/transcriptions and /v1/models.

Source of the protocol: OpenAI's public OpenAPI description (August 2026), tried with the client `openai` 3.57.
"""

from service.openai.routes import part

__all__ = ["part"]
