"""The opt-out signals that are honoured, and the evidence that is kept of each refusal. Pure.

robots.txt            Disallow for our product token, else for `*`: RFC 9309
robots-content-usage  `Content-Usage: [path] train-ai=n` there: draft-ietf-aipref-attach, "robots.txt"
x-robots-tag          the header X-Robots-Tag: noindex, noimageindex, none (Google Search Central, "Robots
                      meta tag"), noai, noimageai (DeviantArt, 2022)
tdmrep.json           /.well-known/tdmrep.json, the first rule that matches: TDMRep (W3C Community Group
                      Final Report, 10 May 2024), "TDM File on the Origin Server"
tdm-reservation       the headers tdm-reservation and tdm-policy, which override the file: TDMRep, "TDM
                      Header Field in HTTP Responses" and "Processing priority"
content-usage         `train-ai=n` in the header Content-Usage: draft-ietf-aipref-attach, "HTTP Content-Usage
                      Header Field"; words of draft-ietf-aipref-vocab, not yet consensus
page-meta             <meta name="tdm-reservation">: TDMRep, "TDM Metadata in HTML Content"; and
                      <meta name="robots"> with the words of X-Robots-Tag
iptc-data-mining      plus:DataMining in XMP, DMI-PROHIBITED and its kinds: IPTC Photo Metadata Standard
                      2023.1, "Data Mining"; vocabulary of the PLUS License Data Format
c2pa-training-mining  the assertions c2pa.training-mining (C2PA Technical Specification 1.x) and
                      cawg.training-mining (CAWG Training and Data Mining Assertion 1.0, 1.1)
opt-outs-file         a domain, a URL prefix or a hash in the file of --opt-outs: docs/scraping.md
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, get_args

from scrapers.fetch.storable import storable

SignalName = Literal[
    "robots.txt",
    "robots-content-usage",
    "x-robots-tag",
    "tdmrep.json",
    "tdm-reservation",
    "content-usage",
    "page-meta",
    "iptc-data-mining",
    "c2pa-training-mining",
    "opt-outs-file",
]
SIGNALS: tuple[SignalName, ...] = get_args(SignalName)

# Directives that ask robots to stay away, in X-Robots-Tag and <meta name="robots">.
REFUSING_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})

_MAX_TEXT_CHARS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A refusal: which signal, its place, its text.

    `reason` is the short word in the ledger; `where` a URL, or the place in a file.
    """

    signal: SignalName
    reason: str
    where: str
    text: str

    def evidence(self, when: str) -> str:
        """The evidence for the ledger, as ASCII JSON; `when` it was found, ISO 8601 UTC."""
        return json.dumps(
            {
                "signal": self.signal,
                "where": self.where,
                "when": when,
                "text": self.text[:_MAX_TEXT_CHARS],
            }
        )

    def __str__(self) -> str:
        """For messages."""
        return storable(f"{self.signal} in {self.where}: {self.text[:_MAX_TEXT_CHARS]}")
