"""/v1/files: stored, listed, downloaded, deleted, expired; whose they are, and how large they may be."""

import time
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from django.core.files.base import ContentFile
from django.test import override_settings
from django.utils import timezone

from apps.files.models import StoredFile
from apps.files.services import ORPHAN_AFTER_S, get_storage, store_content, sweep
from tests.api.conftest import Api
from tests.api.test_sdks import make_openai
from tests.factories import make_key, make_user
from tests.stored_files import STORE, UPLOADS, clear_storage, list_stored

PATH = "/v1/files"


def upload(api: Api, content: bytes = b"{}\n", name: str = "input.jsonl", **fields: str) -> httpx.Response:
    with api.client() as client:
        return client.post(PATH, files={"file": (name, content)}, data={"purpose": "batch"} | fields)


@pytest.fixture(autouse=True)
def empty_storage() -> Iterator[None]:
    """No content outlives its test, and nothing is left where files arrive."""
    yield
    clear_storage()


def test_openai_sdk_stores_reads_lists_and_deletes(api: Api) -> None:
    content = bytes(range(256)) * 2000
    with make_openai(api) as client:
        made = client.files.create(file=("données.bin", content), purpose="user_data")
        assert (made.object, made.bytes, made.filename, made.purpose) == ("file", 512_000, "données.bin", "user_data")
        assert made.expires_at is None
        assert client.files.retrieve(made.id) == made
        assert client.files.content(made.id).read() == content
        assert [file.id for file in client.files.list()] == [made.id]
        deleted = client.files.delete(made.id)
        assert (deleted.id, deleted.deleted) == (made.id, True)
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(made.id)
    assert list_stored() == []


def test_files_are_never_in_memory_whole(api: Api, tmp_path: Path) -> None:
    num_bytes = 24 * 1024 * 1024
    with (tmp_path / "large").open("wb") as large:
        large.truncate(num_bytes)
    tracemalloc.start()
    try:
        with (tmp_path / "large").open("rb") as large, api.client() as client:
            made = client.post(PATH, files={"file": large}, data={"purpose": "user_data"}).json()
        assert made["bytes"] == num_bytes
        with api.client() as client, client.stream("GET", f"{PATH}/{made['id']}/content") as answer:
            assert answer.headers["content-length"] == str(num_bytes)
            assert sum(len(chunk) for chunk in answer.iter_bytes()) == num_bytes
        assert tracemalloc.get_traced_memory()[1] < num_bytes / 3
    finally:
        tracemalloc.stop()


def test_files_are_their_owners_alone(api: Api) -> None:
    made = upload(api).json()
    team = StoredFile.objects.get().team
    for stranger in (make_key(), make_key(team=team, user=make_user(team=team))):
        other = Api(api.url, stranger.secret)
        with other.client() as client:
            assert client.get(PATH).json()["data"] == []
            for answer in (
                client.get(f"{PATH}/{made['id']}"),
                client.get(f"{PATH}/{made['id']}/content"),
                client.delete(f"{PATH}/{made['id']}"),
            ):
                assert answer.status_code == 404
                assert answer.json()["error"]["code"] == "not_found"
            assert client.get(PATH, params={"after": made["id"]}).json()["error"]["param"] == "after"
    with api.client() as client:
        assert client.get(f"{PATH}/{made['id']}/content").content == b"{}\n"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nobody_gets_in_without_a_key(api: Api, method: str) -> None:
    answer = httpx.request(method, api.url + PATH, files={"file": b"x"} if method == "POST" else None)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"purpose": "assistants"}, "unsupported_parameter", "purpose"),
        ({"purpose": "fine-tune"}, "unsupported_parameter", "purpose"),
        ({"purpose": "vision"}, "unsupported_parameter", "purpose"),
        ({"purpose": "evals"}, "unsupported_parameter", "purpose"),
        ({"purpose": "batch_output"}, None, "purpose"),
        ({"purpose": ""}, None, "purpose"),
        ({"porpoise": "batch"}, "unknown_parameter", "porpoise"),
        ({"expires_after[seconds]": "3600"}, None, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at"}, None, "expires_after[seconds]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}, None, "expires_after[seconds]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "²"}, None, "expires_after[seconds]"),
    ],
    ids=str,
)
def test_a_bad_form_names_its_field(api: Api, fields: dict[str, str], code: str | None, param: str) -> None:
    error = upload(api, **fields).json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert list_stored() == []


def test_a_form_needs_one_file_that_is_not_empty(api: Api) -> None:
    with api.client() as client:
        none = client.post(PATH, files={"purpose": (None, "batch")})
        two = client.post(PATH, files=[("file", b"a"), ("file", b"b"), ("purpose", (None, "batch"))])
        other = client.post(PATH, files={"photo": b"a"})
        cut = client.post(
            PATH,
            content=b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nabc',
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
        json = client.post(PATH, json={"purpose": "batch"})
    assert [answer.status_code for answer in (none, two, other, cut, json)] == [400, 400, 400, 400, 415]
    assert [answer.json()["error"]["param"] for answer in (none, two, other)] == ["file", "file", "photo"]
    assert upload(api, b"").json()["error"]["param"] == "file"


@pytest.mark.parametrize("num_bytes", [2000, 200_000], ids=["at the end", "by its length"])
def test_a_file_that_is_too_large_is_refused(api: Api, num_bytes: int) -> None:
    with override_settings(MAX_FILE_BYTES=1024):
        answer = upload(api, b"x" * num_bytes)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert not StoredFile.objects.exists()
    assert list_stored() == []


def test_a_team_has_room_for_so_much(api: Api) -> None:
    with override_settings(MAX_TEAM_FILES_BYTES=10):
        first = upload(api, b"x" * 10)
        assert first.status_code == 200
        second = upload(api, b"x")
        assert (second.status_code, second.json()["error"]["param"]) == (413, "file")
        assert upload(Api(api.url, make_key().secret), b"x").status_code == 200  # another team
        with api.client() as client:
            client.delete(f"{PATH}/{first.json()['id']}")
        assert upload(api, b"x").status_code == 200


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\x00b", "x" * 300, "..", "C:\\x\\y"], ids=repr)
def test_a_name_is_a_name_and_no_path(api: Api, name: str) -> None:
    made = upload(api, name=name).json()
    assert made["filename"]
    assert not set(made["filename"]) & set("/\\\x00")
    assert len(made["filename"]) <= 255
    with api.client() as client:
        assert client.get(f"{PATH}/{made['id']}/content").content == b"{}\n"


def test_lists_come_in_pages(api: Api) -> None:
    made = [upload(api, name=f"{number}").json()["id"] for number in range(5)]
    upload(api, purpose="user_data")
    with api.client() as client:

        def get(**params: Any) -> dict[str, Any]:
            return client.get(PATH, params=params).json()

        page = get(limit=2, order="asc")
        assert ([file["id"] for file in page["data"]], page["has_more"]) == (made[:2], True)
        assert (page["first_id"], page["last_id"]) == (made[0], made[1])
        rest = get(order="asc", after=made[1], purpose="batch")
        assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (made[2:], False)
        assert len(get()["data"]) == 6
        for params in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"purpose": "vision"}, {"after": "file-x\0"}):
            assert get(**params)["error"]["param"] == next(iter(params))
        assert client.get(f"{PATH}/file-%00").status_code == 404
    with make_openai(api) as sdk:
        assert [file.id for file in sdk.files.list(purpose="batch", limit=2)] == made[::-1]


def test_files_expire(api: Api) -> None:
    after = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    made = [upload(api, **fields).json() for fields in (after, {}, {"purpose": "user_data"})]
    assert [file["expires_at"] and file["expires_at"] - file["created_at"] for file in made] == [3600, 30 * 86400, None]
    past = timezone.now() - timedelta(seconds=1)
    StoredFile.objects.filter(pk=made[0]["id"]).update(expires_at=past)
    StoredFile.objects.filter(pk=made[1]["id"]).update(expires_at=past, is_held=True)  # a batch reads it
    with api.client() as client:
        assert client.get(f"{PATH}/{made[0]['id']}").status_code == 404
        assert {file["id"] for file in client.get(PATH).json()["data"]} == {made[1]["id"], made[2]["id"]}
    sweep()
    assert {file.pk for file in StoredFile.objects.all()} == {made[1]["id"], made[2]["id"]}
    assert len(list_stored()) == 2


def test_files_are_kept_where_nobody_limits_that(api: Api) -> None:
    with override_settings(FILES_RETENTION_DAYS=0):
        assert upload(api).json()["expires_at"] is None


def test_what_a_crash_left_is_swept_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    made = upload(api).json()
    orphan = store_content(ContentFile(b"orphan"))
    (STORE / "somebody-elses").touch()
    (UPLOADS / "half.upload").touch()
    sweep()
    assert len(list_stored()) == 3  # it may still arrive
    monkeypatch.setattr("apps.files.services.ORPHAN_AFTER_S", -1.0)
    assert ORPHAN_AFTER_S > 3600
    sweep()
    assert not get_storage().exists(orphan)
    assert list_stored() == sorted([StoredFile.objects.get(pk=made["id"]).storage_name, "somebody-elses"])


def test_a_content_that_is_gone_is_a_404(api: Api) -> None:
    made = upload(api).json()
    get_storage().delete(StoredFile.objects.get().storage_name)
    with api.client() as client:
        assert client.get(f"{PATH}/{made['id']}/content").status_code == 404
        assert client.delete(f"{PATH}/{made['id']}").status_code == 200


def test_an_upload_that_is_left_leaves_nothing(api: Api) -> None:
    head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    headers = {"authorization": f"Bearer {api.secret}", "content-type": "multipart/form-data; boundary=x"}

    def send() -> Iterator[bytes]:
        yield head + b"x" * 100_000
        deadline_s = time.monotonic() + 30
        while not list(UPLOADS.iterdir()):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        httpx.post(api.url + PATH, content=send(), headers=headers)
    deadline_s = time.monotonic() + 30
    while list(UPLOADS.iterdir()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert not StoredFile.objects.exists()
