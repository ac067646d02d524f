"""What encoding takes: its disk and its memory. Its time is judged by the first batches."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.estimate import Estimate, memory_so_far
from pipeline.models.codecs.base import Codec

# Of a view beside its codes of 2 bytes: the hash of its pixels, its name.
_VIEW_BYTES = 72
# Widest layers in memory at the same time, in fp32.
_LAYERS = 3 * 4
_ACTIVATIONS_ON_GPU = 6 * 4


def estimate_encoding(
    codec: Codec,
    folder: Path,
    *,
    name: str,
    precision: str,
    images: int,
    views: int,
    batch_size: int,
) -> Estimate:
    """The work of encoding `views` views of each of `images` images."""
    device = codec.device.type
    on_gpu = device != "cpu"
    weights = sum(
        parameter.numel() * parameter.element_size() for parameter in codec.trunk.parameters()
    )
    layers = codec.widest_layer * batch_size * (_ACTIVATIONS_ON_GPU if on_gpu else _LAYERS)
    return Estimate(
        stage="encode",
        work=f"encode {images:,} images with {name} on {device} in {precision}, {batch_size} at once",
        folder=folder,
        disk_bytes=images * views * (2 * codec.num_codes + _VIEW_BYTES),
        memory_bytes=layers + (weights if on_gpu else memory_so_far()),
    )
