"""An example of a project that uses the library: it backs up a server before deploying to it."""

from vpsbackups_async import (
    BackupFailedError,
    BackupsClient,
    ExponentialBackoff,
    ManualBackupLimitError,
)


async def deploy(server_id: int) -> str:
    """Deploy once a new backup is completed; returns a message that says what happened."""
    async with BackupsClient() as client:  # reads VPS_API_TOKEN and VPS_API_URL
        try:
            backup = await client.create(server_id, description="Before the deployment")
            backup = await client.wait(
                backup, backoff=ExponentialBackoff(2, maximum=30), timeout=1800
            )
        except ManualBackupLimitError:
            return "not deployed: no room for another backup"
        except BackupFailedError:
            return "not deployed: the backup failed"
    return f"deployed after backup {backup.id}"
