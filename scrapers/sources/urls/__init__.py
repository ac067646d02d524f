"""Lists of URLs and captions, in the formats in which image datasets are published.

A list is read as a stream, twice: once to count and check its rows, and once to crawl. Neither keeps more
than a batch of rows in memory.
"""

from scrapers.source import SourceKind
from scrapers.sources.urls.config import UrlsConfig

SOURCE = SourceKind(
    name="urls",
    help="The images of lists of URLs and captions: CC12M, LAION, COYO, WIT or your own.",
    config=UrlsConfig,
    opener="scrapers.sources.urls.bulk:open_urls",
)
