"""Who may act on a node through its page: whoever sits at this machine and has that page open.

In: the headers of a request. Out: nothing, or the refusal. Other sites' pages can send requests to
loopback, but cannot read what it answers: so they do not know the token, which is new with each
process (CSRF). Names of their own that lead here (DNS rebinding) are refused before the token is
told. Another user of this machine may look and act: loopback is everybody's on it.
"""

import secrets

from starlette.datastructures import Headers

from manyhands.gateway.door import admit_own
from manyhands.gateway.faults import ApiError

TOKEN_HEADER = "x-manyhands-token"


class Guard:
    """One process's."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)

    def require(self, headers: Headers) -> None:
        """
        Raises:
            ApiError: host_not_allowed, origin_not_allowed, invalid_page_token.
        """
        admit_own(headers)
        origin = headers.get("origin")
        is_own = origin is None or origin == f"http://{headers['host']}"
        if not is_own or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise ApiError("origin_not_allowed", "another site's page may not act on this node")
        if not secrets.compare_digest(headers.get(TOKEN_HEADER, "").encode(), self.token.encode()):
            message = f"send the token that GET /api/v1/node tells, as {TOKEN_HEADER}"
            raise ApiError("invalid_page_token", message)
