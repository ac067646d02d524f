"""CLIP scores: how well an image matches a text, with a CLIP model of `transformers`.

A CLIP is a folder as written by `CLIPModel.save_pretrained`, with its tokenizer and, if its preprocessing
differs from OpenAI's, a `preprocessor_config.json`. Images are preprocessed here with Pillow, exactly as
transformers' CLIPImageProcessor does without torchvision.

Shapes: B images, U texts, L tokens, C = 3 colours, H = W pixels, D numbers of an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline.core.errors import ContractError, ModelError
from pipeline.core.extras import missing_package
from pipeline.core.parsing import parse_json_file
from pipeline.core.storage import sha256_file
from pipeline.models.description import Description
from pipeline.models.devices import fill_rows
from pipeline.models.weights import check_tensors

PREPARATION_FILE = "preprocessor_config.json"
# Of OpenAI's CLIPs, `openai/clip-vit-base-patch32` and others.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_LARGEST_SIDE = 4096  # pixels
_GREATEST_NORM = 1e6
_ADVICE = "Give another CLIP."
_MEANINGFUL = ("*.json", "*.txt", "*.safetensors", "*.bin")


@dataclass(frozen=True, kw_only=True)
class ClipFolder:
    """A CLIP's folder; `fingerprint` is the sha256 over its files."""

    path: Path
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """CLIP's preprocessing: resize to `resize` pixels a side, crop the central `side`, normalise."""

    resize: int
    side: int
    resample: int = int(Image.Resampling.BICUBIC)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __call__(self, pixels_BHWC: npt.NDArray[np.uint8]) -> Tensor:
        """float32 [B, 3, side, side] of square images uint8 [B, H, W, 3]."""
        corner = (self.resize - self.side) // 2
        end = corner + self.side
        size, filter_ = (self.resize, self.resize), Image.Resampling(self.resample)
        resized = [Image.fromarray(pixels).resize(size, filter_) for pixels in pixels_BHWC]
        cut_BHWC = np.stack([np.asarray(image)[corner:end, corner:end] for image in resized])
        images_BHWC = torch.from_numpy(cut_BHWC).to(torch.float32) / 255
        normal_BHWC = (images_BHWC - torch.tensor(self.mean)) / torch.tensor(self.std)
        return normal_BHWC.permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A loaded CLIP."""

    model: Any
    tokenizer: Any
    prepare: Preparation
    device: torch.device

    @torch.inference_mode()
    def score(self, texts: Sequence[str], pixels_BHWC: npt.NDArray[np.uint8]) -> list[float]:
        """`logits_per_image` of each image with its own text: their cosine similarity times CLIP's scale."""
        different = list(dict.fromkeys(texts))
        rows = fill_rows(range(len(texts)))
        # A fixed token length and a minimum of rows, so that a score does not depend on its batch.
        tokens = self.tokenizer(
            [different[row] for row in fill_rows(range(len(different)))],
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        outputs = self.model(
            input_ids=tokens["input_ids"].to(self.device),
            attention_mask=tokens["attention_mask"].to(self.device),
            pixel_values=self.prepare(pixels_BHWC[rows]).to(self.device),
        )
        scores_BU: Tensor = outputs.logits_per_image
        scores = scores_BU.tolist()
        return [scores[row][different.index(text)] for row, text in enumerate(texts)]


def find_clip(spec: str) -> ClipFolder:
    """The folder `spec`, or the folder of a model on the Hugging Face Hub, downloaded once.

    Raises ModelError if there is none, DependencyError if transformers is missing.
    """
    path = Path(spec) if Path(spec).is_dir() else _download(spec)
    files = sorted({file for pattern in _MEANINGFUL for file in path.glob(pattern)})
    if not (path / "config.json").exists():
        raise ModelError(
            f"{path} is not a CLIP folder: it has no config.json. Give one that "
            "transformers' CLIPModel.save_pretrained wrote."
        )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return ClipFolder(path=path, fingerprint=digest.hexdigest())


def load_clip(folder: ClipFolder, device: torch.device) -> Clip:
    """Load a CLIP with its tokenizer.

    Raises ModelError if files are missing, truncated, or another model's.
    """
    transformers = _import_transformers()
    transformers.utils.logging.disable_progress_bar()
    path = folder.path
    try:
        model, report = transformers.CLIPModel.from_pretrained(
            path, local_files_only=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # transformers, safetensors and tokenizers raise many kinds
        raise ModelError(
            f"The CLIP model in {path} can't be loaded ({error}). Give another."
        ) from error
    if report["missing_keys"]:
        raise ModelError(
            f"The weights in {path} are not those of a CLIP model: {len(report['missing_keys'])} "
            f"are missing, such as {sorted(report['missing_keys'])[0]}. Give the folder of a CLIPModel."
        )
    check_tensors(model.state_dict(), path)
    prepare = read_preparation(path, default_side=model.config.vision_config.image_size)
    return Clip(model=model.eval().to(device), tokenizer=tokenizer, prepare=prepare, device=device)


def read_preparation(path: Path, *, default_side: int) -> Preparation:
    """The preprocessing in `preprocessor_config.json`; OpenAI's, at `default_side` pixels, without one.

    Raises ModelError for a file that can't be read or asks for images that are not square.
    """
    file = path / PREPARATION_FILE
    if not file.exists():
        return Preparation(resize=default_side, side=default_side)
    try:
        values = parse_json_file(file, dict[str, Any], remedy=_ADVICE)
    except ContractError as error:
        raise ModelError(str(error)) from error
    facts = Description(values, file, advice=_ADVICE)
    prepare = Preparation(
        resize=_side(facts, "size", default_side),
        side=_side(facts, "crop_size", default_side),
        resample=facts.integer("resample", int(Image.Resampling.BICUBIC), low=0, high=5),
        mean=_colours(facts, "image_mean", MEAN),
        std=_colours(facts, "image_std", STD),
    )
    if prepare.side > prepare.resize:
        raise facts.wrong("crop_size", prepare.side, f"at most the size, {prepare.resize}")
    return prepare


def _side(facts: Description, key: str, default: int) -> int:
    """Pixels of a side: old files have a number, new ones `shortest_edge` or `height` and `width`."""
    if not isinstance(facts.values.get(key), Mapping):
        return facts.integer(key, default, high=_LARGEST_SIDE)
    size = facts.table(key)
    if size.has("shortest_edge"):
        return size.integer("shortest_edge", high=_LARGEST_SIDE)
    height = size.integer("height", high=_LARGEST_SIDE)
    if size.integer("width", high=_LARGEST_SIDE) != height:
        raise facts.wrong(key, facts.values[key], "square images")
    return height


def _colours(facts: Description, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    found = facts.items(key)
    if found is None:
        return default
    numbers = [n for n in found if isinstance(n, (int, float)) and abs(n) < _GREATEST_NORM]
    if len(found) != 3 or len(numbers) != 3 or (key == "image_std" and 0 in numbers):
        raise facts.wrong(key, found, "a finite number for each of 3 colours")
    return tuple(map(float, numbers))


def _download(name: str) -> Path:
    _import_transformers()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_MEANINGFUL)))
    except (OSError, ValueError, HFValidationError) as error:
        raise ModelError(
            f"--clip {name} is not a folder, and no such model could be downloaded from the Hugging Face "
            f"Hub ({type(error).__name__}: {str(error).splitlines()[0]}). Give a CLIP folder."
        ) from error


def _import_transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise missing_package("Scoring images", "transformers") from error
    return transformers
