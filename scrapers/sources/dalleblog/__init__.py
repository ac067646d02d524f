"""The DALL·E blog post of January 2021: its page, its captions and the URLs of its images."""

from __future__ import annotations

from scrapers.source import SourceKind
from scrapers.sources.dalleblog.config import DalleBlogConfig

SOURCE = SourceKind(
    name="dalleblog",
    help="The images of OpenAI's blog post on DALL·E (January 2021).",
    config=DalleBlogConfig,
    opener="scrapers.sources.dalleblog.source:DalleBlogSource",
)
