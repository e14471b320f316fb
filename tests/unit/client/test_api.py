from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import unquote

import pytest

from bridge import errors
from bridge.client.api import Api
from tests.support.fake_service import SECRET, FakeService, serving


@pytest.fixture(name="fake")
def _fake() -> Iterator[FakeService]:
    with serving() as running:
        yield running


@pytest.fixture(name="api")
def _api(fake: FakeService) -> Api:
    return Api(fake.url, SECRET)


def test_secret_travels_as_bearer_only(fake: FakeService, api: Api) -> None:
    assert api.get("whoami")["user"] == "ada"
    assert all(SECRET not in path for _, path, _ in fake.requests)


@pytest.mark.parametrize(
    ("status", "word", "kind"),
    [
        (422, "invalid_request", errors.InvalidRequest),
        (401, "unauthenticated", errors.Unauthenticated),
        (403, "forbidden", errors.Forbidden),
        (404, "not_found", errors.NotFound),
        (409, "conflict", errors.Conflict),
        (412, "not_ready", errors.NotReady),
        (413, "too_large", errors.TooLarge),
        (400, "a_word_of_the_future", errors.InvalidRequest),
        (500, "internal", errors.Unavailable),
    ],
)
def test_errors_keep_their_kind_and_words(
    fake: FakeService, api: Api, status: int, word: str, kind: type[errors.BridgeError]
) -> None:
    fake.script("GET", "/v1/whoami", status, {"error": word, "detail": "D.", "hint": "H."})
    with pytest.raises(kind) as caught:
        api.get("whoami")
    assert (caught.value.message, caught.value.hint) == ("D.", "H.")


@pytest.mark.parametrize("name", [".", "..", "a/b", "/", "a?b#c", "%2F", "ü ..", "a\nb"])
def test_any_text_is_one_part_of_a_path(fake: FakeService, api: Api, name: str) -> None:
    with pytest.raises(errors.NotFound):
        api.get("sets", name)
    ((_, path, _),) = fake.requests
    assert path.startswith("/v1/sets/")
    assert unquote(path.removeprefix("/v1/sets/")) == name
    assert not set("/?#") & set(path.removeprefix("/v1/sets/"))


def test_dropped_connection_is_tried_again(fake: FakeService, api: Api) -> None:
    fake.script("GET", "/v1/whoami", 0)
    assert api.get("whoami")["group"] == "lab"


def test_what_must_not_be_repeated_is_sent_once(fake: FakeService, api: Api) -> None:
    fake.script("POST", "/v1/users", 0)
    with pytest.raises(errors.Unreachable):
        api.post("users", body={"name": "x"}, repeatable=False)
    assert fake.count("POST", "/v1/users") == 1


def test_retry_after_is_honoured(fake: FakeService, api: Api) -> None:
    fake.script("GET", "/v1/whoami", 429, {"error": "too_many"}, Retry_After="1")
    began = time.monotonic()
    api.get("whoami")
    assert time.monotonic() - began >= 1


def test_rate_limit_is_waited_out_also_for_what_is_sent_once(fake: FakeService, api: Api) -> None:
    fake.script("POST", "/v1/users", 429, {"error": "too_many"}, Retry_After="0")
    assert api.post("users", body={"name": "x"}, repeatable=False)["secret"]


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_quota_is_not_waited_for(fake: FakeService, api: Api, repeatable: bool) -> None:
    body = {"error": "over_quota", "detail": "Over the limit of 20.", "hint": "Later."}
    fake.script("POST", "/v1/sets/s/retry", 429, body, Retry_After="60")
    with pytest.raises(errors.OverQuota, match="limit of 20"):
        api.post("sets", "s", "retry", repeatable=repeatable)
    assert fake.count("POST", "/v1/sets/s/retry") == 1


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(429, "Asked to slow down, going on in 1 s."), (503, "The service is not ready, going on")],
)
def test_waiting_is_told_but_not_all_the_time(
    fake: FakeService, status: int, sentence: str
) -> None:
    told: list[str] = []
    for _ in range(2):
        fake.script("GET", "/v1/whoami", status, {"error": "x"}, Retry_After="1")
    assert Api(fake.url, SECRET, tell=told.append).get("whoami")
    (said,) = told
    assert said.startswith(sentence)


def test_something_else_listening_is_said(fake: FakeService, api: Api) -> None:
    fake.script("GET", "/v1/whoami", 404, b"<html>nginx</html>")
    with pytest.raises(errors.Unreachable, match="no word of nomad-bridge"):
        api.get("whoami")
    fake.script("GET", "/v1/whoami", 200, b"<html>welcome</html>")
    with pytest.raises(errors.Unreachable):
        api.get("whoami")


def test_nobody_listening_names_the_address() -> None:
    with pytest.raises(errors.Unreachable, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        Api("http://127.0.0.1:9", SECRET).get("whoami")


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"", "closed connection without response"), (b"SSH-2.0-x\r\n", "speaks no HTTP")],
)
def test_what_kept_an_answer_is_said_in_words(answer: bytes, why: str) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer_once() -> None:
        with server.accept()[0] as connection:
            connection.recv(1000)
            connection.sendall(answer)

    thread = threading.Thread(target=answer_once)
    thread.start()
    with server, pytest.raises(errors.Unreachable) as caught:
        Api(f"http://127.0.0.1:{server.getsockname()[1]}", SECRET).post("users", repeatable=False)
    thread.join()
    assert caught.value.message.endswith(why)


def test_a_refused_connection_names_no_object_of_a_library() -> None:
    with pytest.raises(errors.Unreachable) as caught:
        Api("http://127.0.0.1:9", SECRET).get("whoami")
    assert caught.value.message == "http://127.0.0.1:9 cannot be reached: Connection refused"


def test_a_proxy_is_not_asked_for_this_machine(
    fake: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert Api(fake.url, SECRET).get("whoami")


def test_path_parts_are_quoted(fake: FakeService, api: Api) -> None:
    with pytest.raises(errors.NotFound):
        api.delete("users", "a/../b c")
    assert fake.requests[-1][1] == "/v1/users/a%2F..%2Fb%20c"
