"""The REST form's client."""

from typing import Any

import httpx

from exfm.errors import (
    DeadlineError,
    OverloadedError,
    RequestError,
    ServingError,
    ShardUnavailableError,
    UnknownModelError,
    VersionMismatchError,
)

_ERRORS: dict[int, type[RequestError | ServingError]] = {
    404: UnknownModelError,
    412: VersionMismatchError,
    429: OverloadedError,
    503: ShardUnavailableError,
    504: DeadlineError,
}


def infer(url: str, model: str, body: dict[str, Any], *, timeout_s: float = 10.0) -> dict[str, Any]:
    """Return a served model's answer to a request, both in the protocol's JSON form.

    `url` is the server's address, such as http://127.0.0.1:8080. Proxies from the environment are not used.

    Raises: RequestError or ServingError, with the server's message.
    """
    try:
        with httpx.Client(trust_env=False, timeout=timeout_s) as client:
            response = client.post(f"{url.rstrip('/')}/v2/models/{model}/infer", json=body)
    except httpx.TimeoutException as error:
        raise DeadlineError(f"{url} did not answer within {timeout_s:g} s") from error
    except httpx.TransportError as error:
        raise ServingError(f"{url} cannot be reached ({error}); is the server up?") from error
    if response.is_success:
        answer: dict[str, Any] = response.json()
        return answer
    fallback = RequestError if response.is_client_error else ServingError
    raise _ERRORS.get(response.status_code, fallback)(f"{url}: {_message(response)}")


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):  # something other than our server answered
        return f"status {response.status_code}: {response.text:.200}"
