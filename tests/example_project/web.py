"""An example of a web application that uses the library: it starts backups over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from vpsbackups_async import BackupsClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open and close one client with the application."""
    async with BackupsClient() as app.state.backups:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/servers/{server_id}/backups", status_code=202)
async def create(server_id: int, request: Request) -> dict[str, int]:
    """Start a backup; returns its id."""
    backup = await request.app.state.backups.create(server_id)
    return {"id": backup.id}
