"""One GET at a time over HTTP: the request's headers, redirects, and the decoded response.

Requests go through one of two fetchers (`scrapers.fetch.fetcher`): connections of our own (`connections`),
which cost a third of aiohttp's, and aiohttp's `ClientSession` (`session`) for a proxy or a client
certificate. They enforce limits of size and time; redirects are followed here, so that each hop can be
refused: never from a public host to a private one, checked on the addresses that are about to be connected
to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

from scrapers.fetch.budget import Budget
from scrapers.fetch.connections import Connections
from scrapers.fetch.cookies import CookieJar
from scrapers.fetch.decoding import Check, decode_body, is_encoded
from scrapers.fetch.fetcher import Endpoint, Fetcher, Reply
from scrapers.fetch.open_files import connection_limit, raise_limit
from scrapers.fetch.optouts.headers import NO_SIGNALS, SIGNAL_NAMES, HeaderSignals, read_headers
from scrapers.fetch.pace import HostPace
from scrapers.fetch.proxies import Proxies
from scrapers.fetch.recent import Recent
from scrapers.fetch.redirects import AddressCheck, is_public_address, redirect_target
from scrapers.fetch.request_headers import GivenFields, common_fields, lines_of, referer_line
from scrapers.fetch.request_url import WebAddress, parse_address, without_credentials
from scrapers.fetch.resolving import Addresses, PrivateAddressError, Resolver
from scrapers.fetch.response import FetchError, Response
from scrapers.fetch.response_head import Headers
from scrapers.fetch.sending import SendGate
from scrapers.fetch.session import Sessions
from scrapers.fetch.tls import Trust
from scrapers.fetch.trouble import explain

MAX_REDIRECTS = 5
MAX_IMAGE_BYTES = 25 * 2**20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_COOKIES = frozenset({"set-cookie"})
# Spellings of origins that are remembered; a page may name any number.
_MAX_SITES = 20_000

# Called with the URL of a redirect and whether only public addresses may be connected to for it.
HopCheck = Callable[[str, bool], Awaitable[bool]]


@dataclass(slots=True)
class Site:
    """An origin: its fetcher, its user, and the Referer of its images."""

    address: WebAddress
    endpoint: Endpoint
    secure: bool
    referer: str
    cookie: str  # named by the user


class Client:
    """Makes requests with our User-Agent and within limits; an async context manager.

    Connections are kept for the next request to the same origin. `resolver` and `is_public` are seams for
    tests. Certificates are always verified.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        timeout_s: float = 60.0,
        resolver: Resolver | None = None,
        is_public: AddressCheck = is_public_address,
        given: GivenFields | None = None,
        proxies: Proxies | None = None,
        trust: Trust | None = None,
        cookies: CookieJar | None = None,
        max_connections: int | None = None,
    ) -> None:
        """`max_connections`: by default what the limit of open files allows."""
        self.user_agent = user_agent
        self._agent = user_agent.partition("/")[0]
        self.timeout_s = timeout_s
        self.cookies = cookies if cookies is not None else CookieJar()
        self.budget = Budget()
        # Keeps the pace of the hosts, if it is set.
        self.gate_of: Callable[[str, HostPace | None], SendGate] | None = None
        self._page: str | None = None
        self._resolver = resolver
        self._is_public = is_public
        self._given = given or GivenFields()
        self._proxies = proxies
        self._trust = trust or Trust()
        self._max_connections = max_connections
        self._sites: Recent[tuple[str, bool], Site] = Recent(_MAX_SITES)
        self._users: dict[str, bytes] = {}

    @property
    def max_connections(self) -> int:
        """How many connections may be open at once; raises the limit of open files if possible."""
        if self._max_connections is None:
            self._max_connections = connection_limit(raise_limit())
        return self._max_connections

    async def __aenter__(self) -> Client:
        self._addresses = Addresses(self._resolver, self._is_public)
        self._connections: Fetcher = Connections(
            self._addresses,
            self.budget,
            tls=self._trust.context,
            timeout_s=self.timeout_s,
            max_open=self.max_connections,
        )
        self._sessions: Fetcher = Sessions(
            self._addresses,
            self.budget,
            tls=self._trust.context,
            timeout_s=self.timeout_s,
            proxy_of=self._proxy_of,
            is_own_host=self._given.go_to,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connections.close()
        await self._sessions.close()
        await self._addresses.close()

    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_IMAGE_BYTES,
        allow_hop: HopCheck | None = None,
        public_only: bool = False,
        is_whole: Check | None = None,
        quiet_s: float | None = None,
        pace: HostPace | None = None,
    ) -> Response:
        """Request `url`, following up to five redirects; `allow_hop` may refuse each one.

        `public_only`: connect to public addresses only, as after a redirect from a public host. `is_whole`
        tells whether bytes are a complete image: the request is then made as for an image of the page. A body
        that stalls for `quiet_s` has ended early. `pace`: another one to keep than those of the hosts. Raises
        FetchError if no response came or it had to be refused.
        """
        public = public_only
        current = url
        more = "" if headers is None else lines_of(headers)
        latency_s = 0.0
        for _ in range(MAX_REDIRECTS + 1):
            site, target = self._find(current, public_only=public)
            fields = more + site.referer if is_whole is not None else more
            if site.cookie or not self.cookies.empty:
                fields += self._cookie_line(site, target)
            gate = None if self.gate_of is None else self.gate_of(current, pace)
            reply = await site.endpoint.ask(target, fields, max_bytes, quiet_s=quiet_s, gate=gate)
            latency_s += reply.latency_s
            if reply.headers.has_any(_COOKIES):
                cookies = reply.headers.getall("set-cookie")
                self.cookies.store(site.address.host, target, cookies)
            if reply.status not in _REDIRECTS:
                return self._answer(reply, current, max_bytes, is_whole, latency_s)
            location = reply.headers.get("location")
            if location is None:
                raise FetchError("redirect_without_location", retry=True)
            public = public or await self._addresses.is_public(site.address.host)
            current = redirect_target(site.address._replace(target=target), location)
            if public:
                await self._refuse_private(current)
            if allow_hop is not None and not await allow_hop(current, public):
                raise FetchError("robots")
        raise FetchError("redirects", f"more than {MAX_REDIRECTS} redirects", retry=True)

    def show_page(self, url: str) -> None:
        """From now on send this page as the Referer of images."""
        self._page = url
        for site in self._sites.values():
            site.referer = referer_line(site.address, url, self._given)

    def remember_users(self, credentials: Mapping[str, tuple[str, str]]) -> None:
        """Take users and passwords by origin (`http://host:port`), as a page gave them."""
        for origin, (user, password) in credentials.items():
            origin = parse_address(origin).origin
            self._users.setdefault(origin, f"{user}:{password}".encode("utf-8", "replace"))

    def remember_user(self, url: str) -> None:
        """Remember `user:password@` of a URL for all requests to its origin."""
        if "@" in url:
            address = parse_address(url)
            if address.credentials is not None:
                self._users.setdefault(address.origin, address.credentials)

    async def is_public_host(self, url: str) -> bool:
        """Whether the host of a URL is on the public internet, as far as it can be resolved."""
        return await self._addresses.is_public(parse_address(url).host)

    def _answer(
        self, reply: Reply, url: str, max_bytes: int, is_whole: Check | None, latency_s: float
    ) -> Response:
        status, headers, body, _, codings = reply
        find = headers.get
        label = find("content-encoding")
        if body and (label is not None or codings or is_encoded(body)):
            labels = [*headers.getall("content-encoding"), *codings]
            try:
                body = decode_body(body, labels, max_bytes, is_whole)
            except FetchError:
                if status == 200:
                    raise
                body = b""
        shown = without_credentials(url) if "@" in url else url
        return Response(
            status,
            body,
            shown,
            etag=find("etag"),
            last_modified=find("last-modified"),
            retry_after=find("retry-after"),
            signals=self._signals(headers, shown),
            headers=headers,
            latency_s=latency_s,
        )

    def _signals(self, headers: Headers, url: str) -> HeaderSignals:
        if not headers.has_any(SIGNAL_NAMES):
            return NO_SIGNALS
        return read_headers(headers.getall, agent=self._agent, url=url)

    async def _refuse_private(self, url: str) -> None:
        """Raise FetchError for a private host before anything, even its robots.txt, is requested from it."""
        if (_spelled_origin(url), True) in self._sites:
            return  # The connections there are made to public addresses only.
        address = parse_address(url)
        try:
            if self._proxy_of(address) is not None:
                await self._addresses.refuse_private(address.host)
            else:
                await self._addresses.look_up(address.host, public_only=True)
        except PrivateAddressError as error:
            detail = f"a public host redirects to {address.host}, at a private address"
            raise FetchError("redirect_to_private", detail, retry=True) from error
        except OSError as error:
            raise explain(error, address.host_and_port) from error

    # --- Origins ----------------------------------------------------------------------------------

    def _find(self, url: str, *, public_only: bool) -> tuple[Site, str]:
        """The origin that a URL is requested from, and the request target."""
        spelled = _spelled_origin(url)
        target = url[len(spelled) :]
        site = self._sites.get((spelled, public_only))
        if site is not None and target[:1] == "/" and _is_plain(target):
            return site, target
        address = parse_address(url)
        if site is None:
            site = self._make_site(address, public_only=public_only)
            self._sites[spelled, public_only] = site
        return site, address.target

    def _make_site(self, address: WebAddress, *, public_only: bool) -> Site:
        credentials = address.credentials or self._users.get(address.origin)
        canonical = (address.origin, public_only)
        if address.credentials is None and (known := self._sites.get(canonical)) is not None:
            return known
        fields = common_fields(
            address, user_agent=self.user_agent, given=self._given, credentials=credentials
        )
        fetcher = self._sessions if self._needs_session(address) else self._connections
        site = Site(
            address,
            fetcher.endpoint(address, fields=fields, public_only=public_only),
            address.scheme == "https",
            referer_line(address, self._page, self._given),
            self._given.cookie if self._given.go_to(address) else "",
        )
        if address.credentials is None:
            self._sites[canonical] = site
        return site

    def _needs_session(self, address: WebAddress) -> bool:
        with_certificate = self._trust.client_cert is not None and address.scheme == "https"
        return self._proxy_of(address) is not None or (
            with_certificate and self._given.go_to(address)
        )

    def _proxy_of(self, address: WebAddress) -> WebAddress | None:
        if self._proxies is None or self._addresses.fixed is not None:
            return None
        return self._proxies.of(address)

    def _cookie_line(self, site: Site, target: str) -> str:
        kept = self.cookies.field(site.address.host, target, secure=site.secure)
        value = "; ".join(filter(None, (site.cookie, kept)))
        return f"Cookie: {value}\r\n" if value else ""


def _spelled_origin(url: str) -> str:
    """Scheme, host and port as they are spelled."""
    end = url.find("/", url.find("://") + 3)
    return url if end < 0 else url[:end]


def _is_plain(target: str) -> bool:
    """Whether a target can be in a request line as it is."""
    return target.isascii() and target.isprintable() and " " not in target and "#" not in target
