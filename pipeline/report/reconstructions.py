"""Images from codes, by the codecs of the workspace. torch is loaded only if there is something to decode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.core.errors import DependencyError
from pipeline.core.image_decode import Pixels
from pipeline.report.view import View

if TYPE_CHECKING:
    from pipeline.models.codecs.base import Codec

_BATCH = 64
_SMALL = 5_000_000  # parameters of a codec that decodes hundreds of images in seconds
_FEW = 8


def load_latest_codec(view: View) -> Codec | None:
    """The codec that the latest shards or codes were made with; None if there are neither.

    Raises DependencyError without torch, ModelError if its folder is missing or damaged.
    """
    for contract in ("shards", "codes"):
        folder = view.latest(contract)
        if folder is not None and folder.manifest is not None:
            _check_torch()
            from pipeline.models.codecs.load import find_codec

            fingerprint = folder.manifest.details.get("codec", {}).get("fingerprint", "")
            return load_folder(view, find_codec(view.workspace.codecs, fingerprint))
    return None


def load_folder(view: View, folder: Path) -> Codec:
    """The codec in a folder, loaded once for the page. Raises as `load_latest_codec`."""
    _check_torch()
    from pipeline.models.codecs.load import load_codec

    if folder not in view.loaded:
        view.loaded[folder] = load_codec(folder)
    codec: Codec = view.loaded[folder]
    return codec


def most_decoded(codec: Codec, wanted: int) -> int:
    """How many images to decode: all that are wanted if the codec is small, else a few.

    Large ones, such as VQGAN, take a second or more for an image on a CPU.
    """
    parameters = sum(weights.numel() for weights in codec.state_dict().values())
    return wanted if parameters <= _SMALL else min(wanted, _FEW)


def _check_torch() -> None:
    try:
        import pipeline.models.codecs.load  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"Reconstructions need a package that is not installed ({error}). Install the extra `train`."
        ) from error


def decode_codes(codec: Codec, codes_BN: npt.NDArray[np.integer[Any]]) -> Pixels:
    """Images uint8 [B, H, W, 3] of codes. Raises ModelError for codes that the codec doesn't have."""
    from pipeline.models.codecs.reconstruct import reconstruct

    parts = [
        reconstruct(codec, codes_BN[at : at + _BATCH]) for at in range(0, len(codes_BN), _BATCH)
    ]
    return np.concatenate(parts)


def quality_of(original_HWC: Pixels, decoded_HWC: Pixels) -> float:
    """PSNR in dB of a reconstruction against the square of the original that the codec reads."""
    from pipeline.models.codecs.pixels import square_pixels
    from pipeline.models.codecs.reconstruct import psnr

    read_HWC = square_pixels(Image.fromarray(original_HWC), decoded_HWC.shape[0])
    return psnr(read_HWC[None], decoded_HWC[None])[0]


def encode_and_decode(codec: Codec, originals: Sequence[Pixels]) -> list[tuple[Pixels, float]]:
    """What a codec makes of images, uint8 [H, W, 3] each, and the PSNR in dB."""
    from pipeline.models.codecs.pixels import square_pixels, to_images

    squares = [square_pixels(Image.fromarray(pixels), codec.image_size) for pixels in originals]
    codes = [codec.encode(to_images(np.stack([pixels]))).cpu().numpy() for pixels in squares]
    decoded = decode_codes(codec, np.concatenate(codes))
    return [
        (made, quality_of(pixels, made)) for pixels, made in zip(originals, decoded, strict=True)
    ]
