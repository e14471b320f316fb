"""Every exception of python-nomad and requests → one of the two that may cross.

The only place that knows them. Nothing here means that a job has ended.
"""

from __future__ import annotations

from typing import Final

import msgspec
import requests
from nomad.api import exceptions as nomad_errors

from bridge.errors import ConnectorUnavailable, JobRejected
from bridge.models.attempt import storable

_LONGEST: Final = 300
_SOON_S: Final = 2.0
_LATER_S: Final = 5.0
_OPERATOR_S: Final = 30.0  # nothing changes before somebody acts

# Everything that a call may raise, besides our own errors.
FAULTS: Final = (
    nomad_errors.BaseNomadException,
    nomad_errors.InvalidParameters,
    requests.RequestException,
    OSError,  # a certificate file that is gone
    msgspec.MsgspecError,
    ValueError,  # an answer that is not JSON
)

PLACE_HINT: Final = "Make the group's namespace and node pool: `nomad-bridge nomad setup GROUP`."

DEFAULT_SETTING: Final = "nomad.token_file"
_ALL_CAPABILITIES: Final = (
    "register-job, deregister-job, purge-job, read-job, list-jobs or parse-job in the group's "
    "namespace, or node read"
)
_PLACES: Final = ("nonexistent node pool", "nonexistent namespace")
_INVALID: Final = ("validation", "error occurred", "errors occurred", "exceeds", "too large")


class NoAnswer(ConnectorUnavailable):
    """Nomad was asked, and nothing came, or not in time: that is no word about what was asked."""


def translated(
    fault: Exception, doing: str, *, registers: bool = False, setting: str = DEFAULT_SETTING
) -> ConnectorUnavailable | JobRejected:
    """The error to raise for ``fault``, met while ``doing``, for example ``stop the job x``.
    ``setting`` is where our token is from.

    ``JobRejected`` only while registering, where Nomad has looked at the job and
    refuses it as such.
    """
    response = response_of(fault)
    if response is not None:
        invalid = _invalid(response, doing) if registers else None
        return invalid or _refusal(response, doing, setting)
    cause = _cause(fault)
    silent = isinstance(cause, requests.Timeout | requests.ConnectionError)
    return (NoAnswer if silent else ConnectorUnavailable)(
        f"Nomad could not be asked to {doing}: {_transport(cause)}", _hint(cause), _LATER_S
    )


def response_of(fault: Exception) -> requests.Response | None:
    """The answer that an exception is about, if Nomad gave one."""
    found = getattr(fault, "nomad_resp", None)
    if found is None:
        found = getattr(fault, "response", None)
    return found if isinstance(found, requests.Response) else None


def said(response: requests.Response) -> str:
    """What an answer says, as one short line that can be stored."""
    words = " ".join(storable(response.text).split())[:_LONGEST]
    return words or f"HTTP {response.status_code}"


def lacks_place(words: str) -> bool:
    """Whether Nomad misses a group's namespace or node pool: no fault of any job."""
    return any(place in words for place in _PLACES)


def _invalid(response: requests.Response, doing: str) -> JobRejected | None:
    words = said(response)
    judged = response.status_code in (400, 500) and any(t in words.lower() for t in _INVALID)
    if not judged or lacks_place(words):
        return None
    return JobRejected(f"Nomad refuses to {doing}: {words}", "Change what the job asks for.")


def _refusal(response: requests.Response, doing: str, setting: str) -> ConnectorUnavailable:
    words = said(response)
    message, wait = f"Nomad refuses to {doing}: {words}", _OPERATOR_S
    narrow = False
    match response.status_code:
        case 401 | 403:
            hint, narrow = _permission_hint(words), True
        case 429:
            message, wait = f"Nomad has too many connections to {doing}", _retry_after(response)
            hint = "Raise limits.http_max_conns_per_client on the Nomad servers."
        case 500 if "token expired" in words:
            hint = f"Our token has expired: {_renew(setting)}"
        case 400 | 500 if lacks_place(words):
            hint, narrow = PLACE_HINT, True
        case 400:
            narrow = True
            hint = "Correct the file of nomad.job_file, if it is named here."
        case 404:
            message += " (HTTP 404)"
            hint = "Is nomad.address the URL of a Nomad server?"
        case status:
            message, wait = f"{message} (HTTP {status})", _SOON_S
            hint = "Look at the Nomad servers' log."
    return ConnectorUnavailable(message, hint, wait, narrow=narrow)


def is_denial(fault: Exception) -> bool:
    """Whether Nomad denies something to our token."""
    response = response_of(fault)
    return response is not None and response.status_code == 403 and "disabled" not in response.text


def denial_hint(needs: str, token_fault: Exception | None, setting: str = DEFAULT_SETTING) -> str:
    """What to do about a denial. Nomad words it alike whatever the reason; the reason is
    in ``token_fault``, what came when it was asked about our token (None: the token).
    """
    if token_fault is None:
        return f"The token of {setting} lacks {needs or _ALL_CAPABILITIES}."
    if _has_expired(token_fault):
        return f"The token has expired: {_renew(setting)}"
    if is_denial(token_fault):
        return f"Nomad does not know the token: {_renew(setting)}"
    return _permission_hint("")


def _renew(setting: str) -> str:
    return f"write a new one into the file of {setting} and restart the bridge."


def _has_expired(fault: Exception) -> bool:
    response = response_of(fault)
    return response is not None and "token expired" in response.text


def _permission_hint(words: str) -> str:
    if "disabled" in words:
        return "Let Nomad take jobs again (reject_job_registration in its scheduler configuration)."
    return f"The token may be unknown or expired, or lack {_ALL_CAPABILITIES}."


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return max(float(text), 1.0) if text.isdigit() else _LATER_S


def _cause(fault: Exception) -> Exception:
    """What python-nomad wrapped."""
    wrapped = getattr(fault, "nomad_resp", None)
    return wrapped if isinstance(wrapped, Exception) else fault


def _transport(cause: Exception) -> str:
    # Subclasses first: ConnectTimeout is both a Timeout and a ConnectionError.
    if isinstance(cause, requests.exceptions.SSLError):
        return f"TLS failed ({_short(cause)})"
    if isinstance(cause, requests.Timeout):
        return "it did not answer in time"
    if isinstance(cause, requests.ConnectionError):
        return f"no connection ({_short(cause)})"
    if isinstance(cause, nomad_errors.InvalidParameters):
        return f"wrong parameters ({_short(cause)})"
    return f"its answer cannot be read ({_short(cause)})"


def _hint(cause: Exception) -> str:
    if isinstance(cause, requests.exceptions.SSLError):
        return "Check nomad.ca_file, nomad.client_cert and nomad.client_key."
    if isinstance(cause, requests.Timeout | requests.ConnectionError):
        return "Check nomad.address, and that the Nomad servers run."
    return "Is nomad.address the URL of a Nomad server of a supported version?"


def _short(cause: Exception) -> str:
    return " ".join(str(cause).split())[:_LONGEST] or type(cause).__name__
