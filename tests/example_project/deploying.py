"""A project that uses the library: no deployment without a backup that is completed."""

from vpsbackups_async import (
    BackupFailedError,
    BackupsClient,
    ExponentialBackoff,
    ManualBackupLimitError,
)


async def deploy(server_id: int) -> str:
    async with BackupsClient() as client:  # by VPS_API_TOKEN and VPS_API_URL
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
