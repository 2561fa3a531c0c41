import pytest
from fastapi.testclient import TestClient
from web import app

from vpsbackups_async.testing import FakeVPS


@pytest.mark.fake_vps(servers=[7])
def test_a_backup_is_started_over_http(fake_vps: FakeVPS) -> None:
    with TestClient(app) as http:
        assert http.post("/servers/7/backups").json() == {"id": 1}
    assert [backup["status"] for backup in fake_vps.backups] == ["in_progress"]


def test_each_test_has_a_fake_of_its_own(fake_vps: FakeVPS) -> None:
    fake_vps.add_backup(1)
    with TestClient(app) as http:
        assert http.post("/servers/1/backups").json() == {"id": 2}
