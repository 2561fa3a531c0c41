"""Why a create was refused, as a table: pure rules over the backups that the server has."""

from datetime import UTC, datetime

import pytest

from vpsbackups_async import (
    ApiError,
    AuthenticationError,
    Backup,
    BackupInProgressError,
    BackupStatus,
    BackupType,
    BadRequestError,
    ConflictError,
    ManualBackupLimitError,
    ServerRef,
)
from vpsbackups_async._creating.refusals import may_be_recognised, recognised


def backups(
    *, manual: int = 0, automatic: int = 0, running: bool = False, word: str = "in_progress"
) -> list[Backup]:
    kinds = [BackupType.MANUAL] * manual + [BackupType.AUTOMATIC] * automatic
    status = BackupStatus(word) if running else BackupStatus.COMPLETED
    when = datetime(2025, 1, 16, tzinfo=UTC)
    return [
        Backup(number, ServerRef(1, ""), kind, status, None, when, None, "")
        for number, kind in enumerate(kinds, 1)
    ]


@pytest.mark.parametrize("kind", [BadRequestError, ConflictError])
@pytest.mark.parametrize(
    ("held", "detail", "wanted"),
    [
        (backups(manual=10), "no", ManualBackupLimitError),
        (backups(manual=9), "no", None),
        (backups(manual=9, automatic=5), "no", None),
        (backups(manual=1, running=True), "no", BackupInProgressError),
        (backups(manual=1, running=True, word="IN_PROGRESS"), "no", BackupInProgressError),
        (backups(automatic=1, running=True), "no", BackupInProgressError),
        (backups(manual=10, running=True), "the limit is reached", ManualBackupLimitError),
        (backups(manual=10, running=True), "One is In Progress", BackupInProgressError),
        (backups(manual=10, running=True), "already running", BackupInProgressError),
        (backups(manual=10), "one is in progress", ManualBackupLimitError),
        ([], "one is in progress", None),
    ],
    ids=[
        "full",
        "nine",
        "nine and automatic ones",
        "running",
        "running, in capitals",
        "automatic running",
        "full and running, other words",
        "full and running, in progress",
        "full and running, running",
        "full, words of a running one",
        "empty",
    ],
)
def test_a_refusal_is_recognised_by_what_the_server_holds_and_the_words_are_a_hint(
    kind: type[ApiError], held: list[Backup], detail: str, wanted: type[ApiError] | None
) -> None:
    refusal = kind(400, detail)
    error = recognised(refusal, held)
    assert type(error) is (wanted or kind)
    assert error.args == refusal.args


@pytest.mark.parametrize(
    ("refusal", "may"),
    [
        (BadRequestError(400, "no"), True),
        (ConflictError(409, "no"), True),
        (BadRequestError(400, "", {"description": ["too long"]}), False),
        (BadRequestError(400, "", {"description": ["too long"], "server_id": ["?"]}), True),
        (AuthenticationError(401), False),
    ],
    ids=["400", "409", "bad description", "more than the description", "401"],
)
def test_only_a_refusal_of_the_server_s_state_is_worth_a_look(refusal: ApiError, may: bool) -> None:
    assert may_be_recognised(refusal) is may
