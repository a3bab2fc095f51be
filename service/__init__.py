"""Services that applications call: real-time WebSocket, batch jobs, OpenAI's transcription endpoint and a page."""
