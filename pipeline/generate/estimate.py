"""What drawing images takes: its disk and its memory. Its time is judged by the first codes."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.estimate import Estimate, memory_so_far
from pipeline.generate.sampler import ImageSampler
from pipeline.models.devices import count_parameters

_PIXEL_BYTES = 2  # of a PNG, and its part of the contact sheet
_GUIDED = 2  # with guidance every image has a second row


def estimate_drawing(sampler: ImageSampler, folder: Path, *, images: int, kept: int) -> Estimate:
    """The work of drawing `images` images, of which `kept` are written."""
    config, model = sampler.config, sampler.model.config
    width = next(sampler.model.parameters()).element_size()
    rows = min(sampler.batch_size, images) * (_GUIDED if config.cond_scale != 1 else 1)
    cache = 2 * rows * model.depth * model.total_seq_len * model.heads * model.dim_head * width
    on_gpu = sampler.device.type != "cpu"
    parameters = count_parameters(sampler.model)
    return Estimate(
        stage="generate",
        work=f"draw {images:,} images with {parameters:,} parameters on {sampler.device.type} in "
        f"{config.precision}, {min(sampler.batch_size, images)} at once",
        folder=folder,
        disk_bytes=kept * sampler.codec.image_size**2 * _PIXEL_BYTES,
        memory_bytes=cache + (parameters * width if on_gpu else memory_so_far()),
    )
