r"""The fields people hand in, with their limits; every front door uses these types.

The patterns are those of JSON Schema as far as they go. ``$(?!\n)`` is the end
of the text: a plain ``$`` would let a final line break through.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

_END: Final = r"$(?!\n)"
# No control characters (a NUL cannot be stored, a line break fakes log lines).
_TEXT: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*" + _END

# https://github.com/distribution/reference, without its upper-case host names.
_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH: Final = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG: Final = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST: Final = r"@sha256:[0-9a-f]{64}"
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST: Final = rf"(?:{_LABEL}(?:\.{_LABEL})+(?::[0-9]{{1,5}})?|{_LABEL}:[0-9]{{1,5}}|localhost)"

# Either a name in the group's code bucket, or a place in a registry; a version
# is never left to chance (there is no implied ":latest").
IMAGE_PATTERN: Final = (
    rf"^(?:{_PATH}{_TAG}|{_HOST}/{_PATH}(?:{_TAG})?{_DIGEST}|{_HOST}/{_PATH}{_TAG}){_END}"
)
BUCKET_PATTERN: Final = (
    r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}" + _END
)

# Stored in 32 bits; what one service allows is configured below this.
_LARGEST: Final = 2**31 - 1

BucketId = Annotated[str, Meta(pattern=BUCKET_PATTERN, description="uuid4, the job's bucket")]
Image = Annotated[str, Meta(max_length=255, pattern=IMAGE_PATTERN, examples=["psi4:1.5"])]
Title = Annotated[str, Meta(min_length=1, max_length=255, pattern=_TEXT)]
Cores = Annotated[int, Meta(ge=1, le=_LARGEST)]
MemoryMb = Annotated[int, Meta(ge=16, le=_LARGEST, description="MiB, as Docker and Nomad count")]
OomRetryMb = Annotated[int, Meta(ge=0, le=_LARGEST, description="MiB; 0: no other try")]
Seconds = Annotated[int, Meta(ge=1, le=_LARGEST)]
Priority = Annotated[int, Meta(ge=1, le=100, description="100 goes first")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}" + _END)]
LabelKey = Annotated[str, Meta(min_length=1, max_length=63, pattern=_TEXT)]
LabelValue = Annotated[str, Meta(max_length=255, pattern=_TEXT)]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=32)]
Overlap = Annotated[int, Meta(ge=0, le=31 * 86400, description="seconds")]
UserName = Annotated[str, Meta(min_length=1, max_length=64, pattern=_TEXT)]

# What to do about a wrong field, by its name in the models.
HINTS: Final = {
    "bucket_id": "The bucket's name: a new uuid4 in lower case with hyphens.",
    "image": "name:version in lower case, as in psi4:1.5, or a reference with a registry host "
    "and a tag or sha256 digest; at most 255 characters.",
    "name": "1 to 255 characters without control characters.",
    "set": "1 to 255 characters without control characters, or leave it out.",
    "cores": "A whole number from 1.",
    "memory_mb": "A whole number of MiB from 16.",
    "oom_retry_mb": "A whole number of MiB above memory_mb, or 0 for no other try.",
    "time_limit_s": "A whole number of seconds from 1.",
    "priority": "A whole number from 1 to 100; 100 goes first.",
    "hold": "true or false.",
    "input_sha256": "64 lower-case hexadecimal digits, or leave it out.",
    "overlap_s": "A whole number of seconds from 0 (at once) to 2678400 (31 days).",
    "labels": "At most 32 pairs of text; a key has 1 to 63 characters, a value at most 255.",
}
