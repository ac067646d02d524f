"""URLs as a page writes them, byte for byte, and what a browser makes of them."""

from __future__ import annotations

import pytest

from scrapers.fetch.page_urls import encode_part, resolve_url, take_credentials, without_credentials

BASE = "https://blog.example/a//b/page.html?q#f"


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("https://h/x%2B%2F%3D%3D_0.png", "https://h/x%2B%2F%3D%3D_0.png"),
        ("https://h/x+/==_0.png?sv=1&sig=a%2Bb%3D", "https://h/x+/==_0.png?sv=1&sig=a%2Bb%3D"),
        ("HTTP://H.Example:80/X", "http://h.example/X"),
        ("https://h:8443/x", "https://h:8443/x"),
        ("//h/x", "https://h/x"),
        ("/x", "https://blog.example/x"),
        ("x/../y", "https://blog.example/a//b/y"),
        ("../../../y/.", "https://blog.example/y/"),
        ("?r", "https://blog.example/a//b/page.html?r"),
        ("#g", "https://blog.example/a//b/page.html?q"),
        ("", "https://blog.example/a//b/page.html?q"),
        (" \n/x\ty ", "https://blog.example/xy"),
        ("\\x\\y", "https://blog.example/x/y"),
        ("/ä b{rank}", "https://blog.example/%C3%A4%20b%7Brank%7D"),
        ("/x?{rank}'", "https://blog.example/x?%7Brank%7D'"),
        ("//bücher.example/", "https://xn--bcher-kva.example/"),
        ("//[::1]:8/x", "https://[::1]:8/x"),
        ("/\ud800", "https://blog.example/%EF%BF%BD"),
        ("data:image/png;base64,AAAA", None),
        ("javascript:x", None),
        ("ftp://h/x", None),
        (f"//{'a' * 64}/", None),
        ("//h:99999/", None),
        ("//h o/", None),
        ("//[::1/", None),
    ],
)
def test_a_url_is_what_a_browser_would_ask_for(written: str, url: str | None) -> None:
    assert resolve_url(written, BASE) == url


def test_user_and_password_are_taken_out_and_never_shown() -> None:
    url = resolve_url("/x", "http://us%40er:p%3Aw@h:8/")
    assert url == "http://us%40er:p%3Aw@h:8/x"
    taken = take_credentials(url)
    assert taken == ("http://h:8/x", {"http://h:8": ("us@er", "p:w")})
    assert without_credentials(f"ftp://a:b@h/x and {url}") == "ftp://h/x and http://h:8/x"


def test_what_is_computed_is_encoded_by_one_rule() -> None:
    assert encode_part("a b/ü?{}%\ud800") == "a%20b%2F%C3%BC%3F%7B%7D%25%EF%BF%BD"
    assert encode_part("a+b/c==", safe="+/=") == "a+b/c=="
