"""The labels of jobs and pins at the end of descriptions, and the creates that set them."""

import json
import logging
from datetime import UTC, date, datetime
from typing import Any

import pytest
from helpers_creating import client_of, posts

from vpsbackups_async._tags import (
    has_readable_label,
    is_pinned,
    job_of,
    keeps_labels,
    text_of,
    with_labels,
)
from vpsbackups_async.testing import Drop, FakeVPS, Reply, SeenRequest

TODAY = date(2027, 1, 1)


@pytest.mark.parametrize(
    ("description", "pinned"),
    [
        ("Nightly", False),
        ("Nightly keep", False),
        ("Nightly [keep]", True),
        ("[KEEP] Nightly", True),
        ("Nightly [keep:2027-01-01]", True),
        ("Nightly [keep:2026-12-31]", False),
        ("Nightly [keep:2026-12-31] [job:web] [vb:1]", False),
        ("Nightly [KEEP:2026-12-31]", False),
        ("Nightly [keep:2026-12-31] [keep]", True),
        ("Nightly [keep:2026-12-31] [keep:2027-02-01]", True),
        ("Nightly [keep:2026-12-30] [keep:2026-12-31]", False),
        # Not well formed, cut off or in the wrong place: kept for ever.
        ("Nightly [keep:2026-12-31", True),
        ("Nightly [kee", False),
        ("Nightly [keep", True),
        ("Nightly [keeper]", True),
        ("Nightly [keep:20261231]", True),
        ("Nightly [keep:2026-W01-1]", True),
        ("Nightly [keep:2026-02-30]", True),
        ("Nightly [keep: 2026-12-31]", True),
        ("[keep:2026-12-31] Nightly", True),
        ("Nightly [keep:2026-12-31] [draft]", True),
        # Escaped or in other forms of the letters, as an API may give them back.
        ("Nightly &#91;keep&#93;", True),
        ("Nightly &lbrack;KEEP:2026-12-31&rbrack;", True),
        ("Nightly &amp;#91;keep&amp;#93;", True),
        ("Nightly \uff3bkeep\uff3d", True),
        ("Nightly \uff3b\uff4b\uff45\uff45\uff50\uff1a2026-12-31\uff3d", True),
        ("Nightly \uff3bkeep\uff3d [keep:2026-12-31]", True),
        ("Nightly [keep\u0301]", True),
        ("Nightly &#91;x&#93; [keep:2026-12-31]", False),
    ],
)
def test_keep_in_brackets_pins_unless_its_day_is_over(description: str, pinned: bool) -> None:
    assert is_pinned(description, TODAY) is pinned


@pytest.mark.parametrize(
    ("description", "readable", "job"),
    [
        ("", True, None),
        ("Nightly", True, None),
        ("Nightly [draft] 2", True, None),
        ("Nightly [keep] [vb:1]", True, None),
        ("Nightly [job:web]", True, "web"),
        ("Nightly [JOB:Web] [keep]", True, "Web"),
        ("Nightly [draft] [job:web]", True, "web"),
        ("Nightly [job:web] [job:WEB]", True, "WEB"),
        ("Nightly [job:web] [job:db]", False, "db"),
        ("Nightly [job:web] [job]", False, "web"),
        ("Nightly [job]", False, None),
        ("Nightly [job:]", False, None),
        ("Nightly [job:a b]", False, None),
        ("Nightly [jobs:web]", False, None),
        ("Nightly [draft]", False, None),
        ("Nightly [draft] [vb:1]", False, None),
        ("Nightly ]", False, None),
        ("Nightly [jo", False, None),
        ("Nightly [job:we", False, None),
        ("Nightly [", False, None),
        ("[job:web] Nightly", False, None),
        ("[Job:web] Nightly [job:web]", False, "web"),
        ("[job" * 5000, False, None),
        ("Nightly &#91;job:web&#93;", False, None),
        ("Nightly &amp;#x5b;job:web&amp;#x5d;", False, None),
        ("Nightly \uff3bjob:web\uff3d", False, None),
        ("Nightly [job:\uff57\uff45\uff42]", False, None),
        ("Nightly &#91;job:db&#93; [job:web]", False, "web"),
        ("Nightly &#91;jo", False, None),
        ("Nightly &lt;b&gt; [job:web]", True, "web"),
        ("Café & ½ [job:web]", True, "web"),
        ("&amp;" + "amp;" * 5000, True, None),
    ],
)
def test_a_label_that_cannot_be_read_for_certain_belongs_to_nobody(
    description: str, readable: bool, job: str | None
) -> None:
    assert has_readable_label(description) is readable
    assert job_of(description) == job


@pytest.mark.parametrize(
    ("description", "keep", "job", "labelled"),
    [
        (None, None, None, ""),
        ("Nightly", None, None, "Nightly"),
        ("Nightly", False, None, "Nightly"),
        (None, True, None, "[keep]"),
        ("Nightly", True, None, "Nightly [keep]"),
        ("Nightly", TODAY, None, "Nightly [keep:2027-01-01]"),
        ("Nightly", date.max, None, "Nightly [keep:9999-12-31]"),
        ("Nightly", None, "web", "Nightly [job:web]"),
        ("Nightly [vb:1]", True, "web", "Nightly [vb:1] [keep] [job:web]"),
        ("Nightly [keep] [job:db]", TODAY, "web", "Nightly [keep:2027-01-01] [job:web]"),
        ("Nightly [keep] [job:db]", None, None, "Nightly [keep] [job:db]"),
        ("Nightly [draft]", None, "web", "Nightly [draft] [job:web]"),
    ],
)
def test_labels_are_put_at_the_end_in_place_of_others(
    description: str | None, keep: Any, job: str | None, labelled: str
) -> None:
    assert with_labels(description, keep=keep, job=job) == labelled
    if job is not None:
        assert has_readable_label(labelled)
        assert job_of(labelled) == job
    assert text_of(labelled) == text_of(description or "")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"keep": "2027-01-01"}, "keep must be True or a date"),
    ({"keep": 1}, "keep must be True or a date"),
    ({"keep": datetime(2027, 1, 1, tzinfo=UTC)}, "keep must be True or a date"),
    ({"job": ""}, "job must be a text of 1 to 64 letters"),
    ({"job": "a b"}, "job must be a text of 1 to 64 letters"),
    ({"job": "a]"}, "job must be a text of 1 to 64 letters"),
    ({"job": "a" * 65}, "job must be a text of 1 to 64 letters"),
    ({"job": 7}, "job must be a text of 1 to 64 letters"),
    ({"job": "web", "description": "[job:db] Nightly"}, "cannot belong to a job"),
    ({"keep": TODAY, "description": "[keep] Nightly"}, "is kept for ever"),
    ({"job": "web", "description": "&#91;job:db&#93;"}, "cannot belong to a job"),
    ({"keep": TODAY, "description": "&#91;keep&#93;"}, "is kept for ever"),
    ({"keep": True, "description": 7}, "description must be a str"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
@pytest.mark.fake_vps(backups=0)
async def test_a_label_that_is_none_or_could_not_be_read_is_refused_before_anything_is_sent(
    fake: FakeVPS, options: dict[str, Any], words: str
) -> None:
    async with client_of(fake) as client:
        with pytest.raises(ValueError, match=words):
            await client.create(1, **options)
    assert fake.requests == []


@pytest.mark.fake_vps(backups=0)
async def test_a_create_sets_a_pin_a_job_and_a_marker(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        made = await client.create(1, description="Nightly", keep=TODAY, job="web", marker="16")
        pinned = await client.create(2, keep=True)
    assert made.description == "Nightly [keep:2027-01-01] [job:web] [vb:16]"
    assert pinned.description == "[keep]"


@pytest.mark.virtual_time
@pytest.mark.fake_vps(backups=0)
async def test_a_labelled_backup_is_found_after_a_lost_answer(fake: FakeVPS) -> None:
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        made = await client.create(1, description="Nightly", job="web")
    assert made.description == "Nightly [job:web]"
    assert len(posts(fake)) == 1


@pytest.mark.parametrize(
    ("held", "kept"),
    [
        ("Nightly [keep] [job:web]", True),
        ("NIGHTLY [KEEP] [JOB:WEB]", True),
        ("Nightly [keep] [job:web] [vb:1]", True),
        ("Nightly [keep]", False),
        ("Nightly [job:web]", False),
        ("Nightly [keep] [job:we", False),
        ("Nightly", False),
    ],
)
def test_a_server_that_drops_a_label_does_not_keep_it(held: str, kept: bool) -> None:
    assert keeps_labels("Nightly [keep] [job:web]", held) is kept
    assert keeps_labels("Nightly", held) is (job_of(held) is None)


@pytest.mark.fake_vps(backups=0)
async def test_it_is_logged_that_a_server_does_not_keep_labels(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    made = fake.add_backup(1, description="Nightly [job:w", status="in_progress", id=7)
    fake.inject(Reply(201, json.dumps(made).encode(), method="POST", times=1))
    async with client_of(fake) as client:
        await client.create(1, description="Nightly", job="web")
        await client.create(2, description="Nightly", job="web", keep=True)
    (line,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "backup 7 of server 1 was made without the label" in line.getMessage()


@pytest.mark.virtual_time
@pytest.mark.fake_vps(backups=0)
async def test_it_is_also_logged_of_a_backup_that_was_found_after_a_lost_answer(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    def trim(seen: SeenRequest) -> None:
        if seen.method == "POST":
            fake.add_backup(1, description="Nightly", status="in_progress", id=7)

    fake.on_request = trim
    fake.inject(Drop("before", method="POST", times=1))
    async with client_of(fake) as client:
        assert (await client.create(1, description="Nightly", keep=True)).id == 7
    (line,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "backup 7 of server 1 was made without the label" in line.getMessage()
