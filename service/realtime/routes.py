"""Answer the WebSocket /v2, with or without a language in its path."""

from fastapi import APIRouter
from starlette.websockets import WebSocket

from service.core import Core, Part
from service.realtime.sessions import Sessions

# Another protocol, which would end with an empty transcript here.
_OTHER_PROTOCOLS = frozenset({"agent"})


def part(core: Core) -> Part:
    """Return the part that serves real time."""
    router, sessions = APIRouter(), Sessions(core)

    @router.websocket("/v2")
    @router.websocket("/v2/")
    async def stream(socket: WebSocket) -> None:
        await _serve(sessions, socket, None)

    @router.websocket("/v2/{language}")
    async def stream_of_language(socket: WebSocket, language: str) -> None:
        if language in _OTHER_PROTOCOLS:
            await _refuse(socket, 404, "there is no such protocol here")
            return
        await _serve(sessions, socket, language)

    return Part(router=router, running=sessions.running, is_busy=lambda: sessions.count > 0)


async def _serve(sessions: Sessions, socket: WebSocket, language: str | None) -> None:
    if sessions.is_crowded:
        await _refuse(socket, 503, "too many clients are connected")
        return
    await socket.accept()
    await sessions.serve(socket, language)


async def _refuse(socket: WebSocket, status: int, reason: str) -> None:
    await socket.receive()
    await socket.send({"type": "websocket.http.response.start", "status": status, "headers": []})
    await socket.send({"type": "websocket.http.response.body", "body": reason.encode()})
