"""Whatever is sent, the answer is one of ours and never a fault."""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.models import fields
from bridge.server import create_app
from bridge.settings import Limits
from tests.support.fake_core import FakeBridge
from tests.support.http import Door, assert_canonical_error, submission

_BRIDGE = FakeBridge()
_CLIENT = create_app(_BRIDGE, Limits(requests_per_minute=1_000_000)).test_client()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
half_right = st.dictionaries(
    st.sampled_from([*submission(), "cores", "labels", "set"]), json_values
)


quick = settings(max_examples=60)


@quick
@given(json_values | half_right)
def test_any_json(value: object) -> None:
    ben = Door(_CLIENT, _BRIDGE.ben)
    for path in ("/v1/jobs", "/v1/users", "/v1/compute-secret/rotate", "/v1/nodes/n1/drain"):
        response = ben.post(path, msgspec.json.encode(value))
        if response.status_code not in {200, 201}:
            assert_canonical_error(response, response.status_code)
            assert response.status_code in {403, 422}


@quick
@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    response = Door(_CLIENT, _BRIDGE.ben).post("/v1/jobs", data)
    if response.status_code != 200:
        assert_canonical_error(response, response.status_code)
        assert response.status_code in {400, 422}


@quick
@given(st.text())
def test_any_path_query_and_secret(text: str) -> None:
    ben = Door(_CLIENT, _BRIDGE.ben)
    for response in (
        ben._client.get(f"/v1/jobs/{quoted(text)}", headers=ben._headers),
        ben._client.get(f"/v1/sets/{quoted(text)}", headers=ben._headers),
        ben._client.post(f"/v1/sets/{quoted(text)}/cancel", headers=ben._headers),
        ben._client.get("/v1/jobs", query_string={"set": text}, headers=ben._headers),
        ben._client.get("/v1/jobs", query_string={"cursor": text}, headers=ben._headers),
        ben._client.post("/v22_1/group-token", json={"secret": text}),
    ):
        assert response.status_code in {200, 401, 403, 404, 405, 422}


@quick
@given(st.from_regex(fields.IMAGE_PATTERN) | st.text("ab:/.-_@$ {}\n", max_size=30))
def test_an_accepted_image_is_plain_text_with_a_version(image: str) -> None:
    try:
        msgspec.convert(image, fields.Image)
    except msgspec.ValidationError:
        return
    assert re.fullmatch(r"[A-Za-z0-9._:/@-]+", image)
    assert ":" in image.rpartition("/")[2]
    assert not image.startswith(("/", ".", "-")) and ".." not in image.partition(":")[0]


def quoted(text: str) -> str:
    return quote(text.encode("utf-8", "replace"), safe="")
