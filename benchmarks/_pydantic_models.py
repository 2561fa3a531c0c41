"""The API's list as pydantic models, as a user would write them."""

from datetime import datetime

from pydantic import BaseModel


class Server(BaseModel):
    id: int
    name: str


class Backup(BaseModel):
    id: int
    server: Server
    backup_type: str
    status: str
    size_mb: int | None
    created_at: datetime
    expires_at: datetime | None
    description: str


class Listing(BaseModel):
    count: int
    next: str | None
    previous: str | None
    results: list[Backup]
