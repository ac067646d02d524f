"""The published lists: their columns, in the forms in which they are distributed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The form of a list.

    `names` are the columns of a file without a header, by their number; `format` counts where a file's name
    doesn't say. `quoted` overrides the default of CSV (quoted) and TSV (not). Those of `captions` and `keep`
    that a file has are used. `encoded` captions are URL-encoded. `where` is an additional condition.
    """

    url: str
    captions: tuple[str, ...]
    keep: tuple[str, ...] = ()
    format: str | None = None
    names: tuple[tuple[str, ...], ...] = ()
    quoted: bool | None = None
    encoded: bool = False
    where: str | None = None

    def names_for(self, count: int) -> tuple[str, ...]:
        """The names of the columns of a file without a header that seems to have `count` of them."""
        return next((names for names in self.names if len(names) == count), self.names[0])


_YFCC = (
    "row_id", "photoid", "hash", "uid", "unickname", "datetaken", "dateuploaded", "capturedevice", "title",
    "description", "usertags", "machinetags", "longitude", "latitude", "accuracy", "pageurl", "downloadurl",
    "licensename", "licenseurl", "serverid", "farmid", "secret", "secretoriginal", "ext", "marker",
)  # fmt: skip
_LAION_KEEP = (
    "SAMPLE_ID", "WIDTH", "HEIGHT", "LICENSE", "NSFW", "LANGUAGE", "similarity", "hash", "md5", "punsafe",
    "pwatermark", "aesthetic",
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "cc3m": Preset(
        format="tsv",
        names=(("caption", "url"), ("caption", "url", "labels", "mids", "confidences")),
        url="url",
        captions=("caption",),
    ),
    "cc12m": Preset(
        format="tsv", names=(("url", "caption"),), url="url", captions=("caption",)
    ),
    # The rows of YFCC100M, also those without the row number before them; marker 1 is a video.
    "yfcc15m": Preset(
        format="tsv",
        names=(_YFCC[1:], _YFCC),
        url="downloadurl",
        captions=("title", "description"),
        keep=("photoid", "uid", "licensename", "licenseurl", "usertags"),
        encoded=True,
        where="not marker = 1",
    ),
    # Values are quoted where they contain newlines. SVG can't be decoded here.
    "wit": Preset(
        format="tsv",
        quoted=True,
        url="image_url",
        captions=(
            "caption_reference_description",
            "caption_attribution_description",
            "caption_alt_text_description",
        ),
        keep=("language", "page_url", "mime_type", "original_width", "original_height"),
        where="not mime_type = 'image/svg+xml'",
    ),
    "sbu": Preset(format="json", url="image_urls", captions=("captions",), keep=("user_ids",)),
    "redcaps": Preset(
        format="json",
        url="url",
        captions=("caption",),
        keep=("image_id", "author", "subreddit", "score", "created_utc", "permalink"),
    ),
    "laion": Preset(format="parquet", url="URL", captions=("TEXT",), keep=_LAION_KEEP),
    "relaion": Preset(format="parquet", url="url", captions=("caption",), keep=_LAION_KEEP),
    "coyo": Preset(
        format="parquet",
        url="url",
        captions=("text",),
        keep=(
            "id", "width", "height", "image_phash", "clip_similarity_vitb32", "clip_similarity_vitl14",
            "nsfw_score_opennsfw2", "nsfw_score_gantman", "watermark_score", "aesthetic_score_laion_v2",
        ),
    ),
    "datacomp": Preset(
        format="parquet",
        url="url",
        captions=("text",),
        keep=(
            "uid", "original_width", "original_height", "clip_b32_similarity_score",
            "clip_l14_similarity_score", "sha256",
        ),
    ),
    "recap-datacomp": Preset(
        format="parquet",
        url="url",
        captions=("re_caption", "org_caption"),
        keep=("key", "sha256", "re_clip_score", "org_clip_score"),
    ),
}  # fmt: skip
