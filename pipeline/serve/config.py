"""Options of `pipeline serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import StageConfig, option

MOST_IMAGES = 1024  # per request, and waiting in the queue for each image of a batch


@dataclass(frozen=True, kw_only=True)
class ServeConfig(StageConfig):
    """Where to listen, who may use it, and how much."""

    host: str = option("127.0.0.1", "Address to listen on; any but loopback needs --token.")
    port: int = option(8080, "Port to listen on; 0 picks a free one.", low=0, high=65_535)
    token: str | None = option(
        None,
        "Token that clients must send, as `Authorization: Bearer TOKEN` or once as ?token=TOKEN. Prefer the "
        "environment variable PIPELINE_SERVE_TOKEN: a command line is visible to other users.",
        secret=True,
    )
    allow_origin: tuple[str, ...] = option(
        (), "Origin whose pages may call the APIs, such as https://example.org, or *. Repeatable."
    )
    allow_host: tuple[str, ...] = option(
        (), "Additional host name to accept without a token, such as that of a proxy. Repeatable."
    )

    run: str | None = option(
        None, "Run to use if a request names no model (default: dalle, else the first one)."
    )
    loaded_models: int = option(
        1, "Models to keep loaded; the least recently used one is unloaded.", low=1, high=64
    )
    clip: str | None = option(
        None,
        "CLIP model that ranks images: a folder, or a name on the Hugging Face Hub. Needs the extra clip.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto",
        "Precision of the transformer; auto is bf16 on CUDA devices with native bf16, else fp32.",
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "Device; auto uses CUDA if available.")
    threads: int = option(0, "CPU threads; 0 uses torch's default.", low=0, high=1024)
    batch_size: int = option(
        16,
        "Maximum images drawn at once, over all requests; one with guidance counts as two. Less than 4 is 4.",
        low=1,
        high=MOST_IMAGES,
    )
    queue: int = option(
        64,
        "Maximum images waiting; further requests get 429 with Retry-After.",
        low=1,
        high=1_000_000,
    )
    max_images: int = option(16, "Maximum images per request.", low=1, high=MOST_IMAGES)
    max_prompt: int = option(4_000, "Maximum characters per prompt.", low=1, high=1_000_000)

    thumbnail: int = option(160, "Longer side of a thumbnail in pixels.", low=16, high=512)
    thumbnail_mb: int = option(
        128, "Cache for thumbnails, in megabytes; the oldest are dropped.", low=1, high=1_000_000
    )
    index: Path | None = option(
        None, "Folder for the search index (default: in the user's cache folder)."
    )
