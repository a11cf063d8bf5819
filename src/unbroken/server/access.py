"""Who may do what: the one place where it is decided.

`App` asks here before it does anything for a request, with the same path under which streams are routed and stored
(`unbroken.protocol.paths`): what decides and what acts cannot disagree about what ``//`` or ``%2e`` mean.

A request is recognised by the application's own hook, if it has one, else by its token: ``Authorization: Bearer``, or
``?token=`` for reads, which a browser's EventSource cannot do otherwise. A token that was found good is remembered
until it expires, so that the next request costs a look into a table.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from unbroken.engine.clock import Clock
from unbroken.errors import (
    InsufficientScope,
    InvalidHeader,
    InvalidToken,
    KeysUnavailable,
    MethodNotAllowed,
    Unauthorized,
)
from unbroken.protocol.headers import ALLOWED_METHODS
from unbroken.protocol.scopes import Action, Principal
from unbroken.server.cors import is_from_elsewhere
from unbroken.server.http import Headers, Request
from unbroken.server.shares import WrongTokens
from unbroken.server.static import STATIC_PATHS

if TYPE_CHECKING:
    from unbroken.server.jwks import RemoteKeys
    from unbroken.tokens.keys import Key
    from unbroken.tokens.signed import Verifier
    from unbroken.tokens.static import StaticToken, TokenFile

__all__ = ["OPEN_PATHS", "Access", "AccessRequest", "Authorize", "Lease", "hide_token", "query_token"]

_log = logging.getLogger("unbroken.server")

OPEN_PATHS = frozenset(("/-/health", "/-/ready", *STATIC_PATHS))
"""Reserved paths that tell nothing of any stream: anybody may ask."""

_ACTIONS: dict[str, Action] = {"GET": "read", "HEAD": "read", "POST": "append", "PUT": "create", "DELETE": "delete"}
_KNOWN_MAX = 10_000
_POLL_S = 1.0
_LEASE_S_MAX = 86_400.0
_HINT = "send a token as 'Authorization: Bearer <token>', or with a read as ?token=<token>"
# RFC 6750 section 2.1. The scheme's name is compared without regard to case (RFC 9110 section 11.1).
_BEARER = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_IN_QUERY = re.compile(rb"((?:^|&)token=)[^&]*")
_TOKEN = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)


@dataclass(frozen=True)
class AccessRequest:
    """What an application's own hook decides by.

    Args:
        method: in upper case.
        path: of the stream, decoded, below the mount prefix; or of one of the server's own endpoints (``/-/streams``).
        action: what is wanted: ``create``, ``append``, ``read`` or ``delete``.
        headers: by lower-case name; the values of repeated ones joined by a comma.
        query: what follows the question mark, raw.
        scope: the ASGI scope, with which ``starlette.requests.HTTPConnection`` gives cookies, session and client.
    """

    method: str
    path: str
    action: Action
    headers: Mapping[str, str]
    query: str
    scope: MutableMapping[str, Any] = field(repr=False)


Authorize = Callable[[AccessRequest], "Principal | Awaitable[Principal | None] | None"]
"""An application's own hook. None: it does not know who that is; then a token is asked for, if any are accepted."""


class Access:
    """Recognises who asks, and says whether they may.

    Args:
        clock: tells the time.
        authorize: the application's own hook.
        public_url: pages served from there are the application's own.
        keys: those that signed tokens are checked with.
        verifier: checks them.
        tokens: the file with static tokens.
        remote: makes the sources of published keys; it is given what to call when they change.
        wrong: counts tokens that are no good; None for no limit.

    Raises:
        TokenFileError: the file with the tokens cannot be read.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        authorize: Authorize | None = None,
        public_url: str | None = None,
        keys: tuple[Key, ...] = (),
        verifier: Verifier | None = None,
        tokens: TokenFile | None = None,
        remote: Callable[[Callable[[], None]], tuple[RemoteKeys, ...]] | None = None,
        wrong: WrongTokens | None = None,
    ) -> None:
        self._clock = clock
        self._wrong = wrong
        self._authorize = authorize
        self._public_url = public_url
        self._keys = keys
        self._verifier = verifier
        self._remote = remote(self._forget) if remote is not None else ()
        self._file = tokens
        self._file_version: object = None
        self._tokens: dict[str, StaticToken] = {}
        self._known: dict[bytes, Principal] = {}
        self._generation = 0
        self._revoked: set[Principal] = set()
        self._leases: set[Lease] = set()
        self._timer: asyncio.TimerHandle | None = None
        # A shared cache keeps nothing of ours; a browser's own must not show one user's pages to the next.
        vary = b"Authorization" if authorize is None else b"Authorization, Cookie"
        self.headers: Headers = [(b"vary", vary)]
        if tokens is not None:
            self._load(tokens)

    @property
    def has_hook(self) -> bool:
        """Whether the application decides by itself, by cookies perhaps."""
        return self._authorize is not None

    def start(self) -> None:
        """Begin to fetch keys, and to watch them and the file with the tokens. To be called in the event loop."""
        if self._file is not None or self._remote:
            self._poll()

    async def stop(self) -> None:
        """Watch nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        for source in self._remote:
            await source.stop()

    # --- deciding --------------------------------------------------------------------------------------------------

    async def check(self, request: Request, path: str) -> None:
        """Make sure that a request may go on, and note who it is from.

        Args:
            request: as it came.
            path: that of the stream or of the reserved endpoint, as it is routed.

        Raises:
            Unauthorized, InvalidToken: nobody that is known.
            TooManyWrongTokens: the same, once too often.
            InsufficientScope: somebody who may not do this.
            KeysUnavailable: their token cannot be checked now.
        """
        if not self.check_now(request, path):
            await self._recognise(request, path)
            self._permit(request, path)

    def check_now(self, request: Request, path: str) -> bool:
        """`check`, if nothing has to be waited for: False if it must be called.

        Raises:
            InsufficientScope: somebody who may not do this.
        """
        if path in OPEN_PATHS:
            return True
        principal = self._recall(request)
        if principal is None:
            return False
        request.principal = principal
        self._permit(request, path)
        return True

    def _permit(self, request: Request, path: str) -> None:
        action = _action(request)
        if not path.startswith("/-/"):
            self.require(request, action, path)
        elif path not in _DECIDE_THEMSELVES:
            assert request.principal is not None
            if not request.principal.scopes.allows(action, path):
                self.require_administration(request, "/")

    @staticmethod
    def require(request: Request, action: Action, path: str) -> None:
        """Refuse a request whose sender may not do this to the stream at this path.

        Raises:
            InsufficientScope: so it is.
        """
        principal = request.principal
        if principal is None:
            raise Unauthorized(_HINT)
        if not principal.scopes.allows(action, path):
            raise InsufficientScope(scope=f"{action}:{quote(path, safe=_PATH_SAFE)}")

    @staticmethod
    def require_administration(request: Request, prefix: str) -> None:
        """Refuse a request whose sender does not administer all streams below a prefix.

        Raises:
            InsufficientScope: so it is.
        """
        principal = request.principal
        if principal is None:
            raise Unauthorized(_HINT)
        if not principal.scopes.covers(prefix):
            above = prefix[: prefix.rfind("/") + 1] or "/"
            raise InsufficientScope(scope=f"admin:{quote(above, safe=_PATH_SAFE)}**")

    def lease(self, request: Request, stop: Callable[[], None]) -> Lease:
        """For how long a live read may go on; to be used as a context manager.

        Args:
            request: asks for it.
            stop: called when it is over.
        """
        assert request.principal is not None
        lease = Lease(self._leases, self._clock, request.principal, stop)
        if request.principal in self._revoked:
            lease.end()
        return lease

    # --- recognising -----------------------------------------------------------------------------------------------

    def _recall(self, request: Request) -> Principal | None:
        if self._authorize is not None:
            return None
        principal = self._known.get(request.fields.get(b"authorization", b""))
        if principal is None or b"token=" in request.query or _is_over(principal, self._clock):
            return None
        return principal

    async def _recognise(self, request: Request, path: str) -> None:
        request.principal = await self._asked(request, path)
        if request.principal is not None:
            return
        given = _given_token(request)
        if given is None:
            raise Unauthorized(_HINT)
        known = self._known.get(given)
        if known is None or _is_over(known, self._clock):
            known = await self._check_token(given, request.client)
        request.principal = known

    async def _asked(self, request: Request, path: str) -> Principal | None:
        """What the application's own hook says, if it is to be asked.

        It may go by cookies, which a browser adds to what the pages of others send: those need tokens.
        """
        if self._authorize is None or is_from_elsewhere(request.fields, self._public_url):
            return None
        found = self._authorize(_access_request(request, path, _action(request)))
        principal = await found if inspect.isawaitable(found) else found
        if not (principal is None or isinstance(principal, Principal)):
            raise TypeError(f"authorize must return a Principal or None, not {type(principal).__name__}")
        return principal

    async def _check_token(self, given: bytes, address: str | None) -> Principal:
        self._known.pop(given, None)
        generation = self._generation
        try:
            principal = await self._verify(given[7:].decode("ascii"), address)
        except InvalidToken:
            if self._wrong is not None:
                self._wrong.note(address)
            raise
        while len(self._known) >= _KNOWN_MAX:
            del self._known[next(iter(self._known))]
        if generation == self._generation:
            self._known[given] = principal
        return principal

    async def _verify(self, token: str, address: str | None) -> Principal:
        from unbroken.tokens.signed import UnknownKey, read_header  # noqa: PLC0415
        from unbroken.tokens.static import STATIC_PREFIX, find_token  # noqa: PLC0415

        if token.startswith(STATIC_PREFIX):
            kept = find_token(token, self._tokens)
            if kept is None:
                raise InvalidToken("the token is unknown or was revoked")
            if _is_over(kept.principal, self._clock):
                raise InvalidToken("the token has expired")
            return kept.principal
        if self._wrong is not None:
            self._wrong.check(address)
        header = read_header(token)
        if self._verifier is None:
            raise InvalidToken("this server takes no signed tokens")
        keys = [key for key in self._keys if header.fits(key)]
        missing: KeysUnavailable | None = None
        for source in self._remote:
            try:
                keys += await source.fitting(header)
            except KeysUnavailable as error:
                missing = error
        try:
            return self._verifier.check(token, keys, self._clock.now().wall_ms / 1000)
        except UnknownKey as error:
            # One of those that could not be had may have signed it.
            raise missing or error from None

    def _forget(self) -> None:
        """Have every token checked anew, those that are being checked at this moment too."""
        self._known.clear()
        self._generation += 1

    # --- static tokens ---------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        for source in self._remote:
            source.keep_fresh()
        if self._file is not None and self._file.version() != self._file_version:
            self._reload(self._file)
        self._timer = asyncio.get_running_loop().call_later(_POLL_S, self._poll)

    def _reload(self, file: TokenFile) -> None:
        from unbroken.tokens.static import TokenFileError  # noqa: PLC0415

        before = {token.principal for token in self._tokens.values()}
        try:
            self._load(file)
        except TokenFileError as error:
            self._file_version = file.version()
            _log.error("the tokens that were valid stay so: %s", error)
            return
        _log.info("the static tokens changed: there are %d", len(self._tokens))
        self._forget()
        self._revoked = (self._revoked | before) - {token.principal for token in self._tokens.values()}
        for lease in [lease for lease in self._leases if lease.principal in self._revoked]:
            lease.end()

    def _load(self, file: TokenFile) -> None:
        version = file.version()
        self._tokens = {token.id: token for token in file.read()}
        self._file_version = version


# They look at the prefix in the query first.
_DECIDE_THEMSELVES = frozenset(("/-/streams",))
_PATH_SAFE = "/~!$&'()+,;=:@"


class Lease:
    """How long somebody may read on: until their token expires or is revoked.

    Args:
        leases: all that there are.
        clock: tells the time.
        principal: who reads.
        stop: called when it is over.
    """

    def __init__(self, leases: set[Lease], clock: Clock, principal: Principal, stop: Callable[[], None]) -> None:
        self.principal = principal
        self._leases = leases
        self._clock = clock
        self._stop = stop
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._leases.add(self)
        if self.principal.expires_at is not None:
            left_s = self.principal.expires_at - self._clock.now().wall_ms / 1000
            left_s = min(max(left_s, 0.0), _LEASE_S_MAX)
            self._timer = asyncio.get_running_loop().call_later(left_s, self.end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leases.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def end(self) -> None:
        """It is over."""
        self._ended = True
        self._stop()

    @property
    def over(self) -> bool:
        """Whether nothing more may be sent."""
        return self._ended or _is_over(self.principal, self._clock)


def _action(request: Request) -> Action:
    action = _ACTIONS.get(request.method)
    if action is None:
        raise MethodNotAllowed(ALLOWED_METHODS)
    return action


def _is_over(principal: Principal, clock: Clock) -> bool:
    return principal.expires_at is not None and clock.now().wall_ms >= principal.expires_at * 1000


def _given_token(request: Request) -> bytes | None:
    """The token of a request, as it stands in a header: ``Bearer <token>``.

    Raises:
        InvalidHeader: it has several.
        InvalidToken: it has something else.
    """
    header = request.fields.get(b"authorization")
    in_query = query_token(request.query) if request.method in ("GET", "HEAD") else None
    if header is None or header[:6].lower() != b"bearer":
        # Another scheme is somebody else's affair, such as a proxy's.
        return None if in_query is None else b"Bearer " + in_query.encode()
    if in_query is not None:
        raise InvalidHeader("send one token, in the Authorization header or in the query")
    match = _BEARER.fullmatch(header.strip(b" \t"))
    if match is None:
        raise InvalidToken("the Authorization header must be 'Bearer <token>', once")
    return b"Bearer " + match[1]


def query_token(query: bytes) -> str | None:
    """The token in a query: ``token=``, spelled so, once.

    Raises:
        InvalidHeader: there are several.
        InvalidToken: it has characters that no token has.
    """
    if b"token=" not in query:
        return None
    found = [pair[6:] for pair in query.split(b"&") if pair.startswith(b"token=")]
    if len(found) > 1:
        raise InvalidHeader("token is given more than once")
    if not found:
        return None
    token = found[0].decode("latin-1")
    if not _TOKEN.fullmatch(token):
        raise InvalidToken("the token in the query is malformed")
    return token


def hide_token(query: bytes) -> bytes:
    """A query as it may be logged."""
    return _IN_QUERY.sub(rb"\1...", query)


def _access_request(request: Request, path: str, action: Action) -> AccessRequest:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.fields.items()}
    return AccessRequest(request.method, path, action, headers, request.query.decode("latin-1"), request.scope)
