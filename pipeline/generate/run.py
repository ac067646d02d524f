"""Checkpoint → images: draws pictures from prompts. Reads runs/NAME and codecs/*, writes generated/NAME.

    generated/<name>/
      NNNN-MM.png     picture MM of prompt NNNN; its PNG text says prompt, seed, checkpoint
      records.jsonl   one line a picture: prompt, seed, checkpoint, file, sha256
      contact.png     all of them on a sheet
      manifest.json   last

Every picture has a seed of its own, made of `--seed`, its prompt and its number: what else is drawn
with it changes nothing.

Legend: B pictures of a batch, T text positions, N codes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config import resolved
from pipeline.contracts import FileEntry, StageReport
from pipeline.errors import ModelError
from pipeline.generate.config import GenerateConfig
from pipeline.generate.pictures import contact_sheet, encode_png
from pipeline.generate.prompts import Order, list_orders, list_prompts
from pipeline.models.checkpoints.ours import INFO_FILE, CheckpointInfo, load_dalle, read_info
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.load import find_codec, load_codec
from pipeline.models.dalle import Dalle
from pipeline.models.devices import pick_device
from pipeline.models.sampling import sample_codes
from pipeline.models.text import TextTokenizer, load_tokenizer
from pipeline.progress import Progress, no_progress
from pipeline.storage import (
    Workspace,
    empty_folder,
    file_entry,
    find_current,
    input_digest,
    make_manifest,
    read_manifest,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_manifest,
)

logger = logging.getLogger(__name__)


def run(config: GenerateConfig, progress: Progress = no_progress) -> StageReport:
    """Draw every prompt; nothing to do if prompts, options and checkpoint are those of last time.

    Raises ConfigError where no prompt is given, ContractError where the run has not finished,
    ModelError where the checkpoint is damaged or its codec is not in the workspace.
    """
    workspace = Workspace(config.workspace)
    folder = workspace.generated(config.name)
    prompts = list_prompts(config.prompts, config.prompts_file)
    checkpoint, inputs = find_checkpoint(config, workspace)
    info = read_info(checkpoint)
    codec_folder = find_codec(workspace.codecs, info.codec)
    inputs |= {
        "prompts": sha256_bytes("\n".join(prompts).encode()),
        f"codecs/{codec_folder.name}": input_digest(codec_folder),
    }
    plan = resolved(config)
    current = find_current(folder, "generated", config=plan, inputs=inputs)
    if current is not None:
        return StageReport(
            stage="generate", outcome="unchanged", counts=current.counts, outputs=(str(folder),)
        )
    artist = load_artist(config, checkpoint, codec_folder)
    orders = list_orders(prompts, num_images=config.num_images, seed=config.seed)
    empty_folder(folder)
    files = write_pictures(folder, artist.draw_all(orders, progress), artist.digest)
    counts = {"images": len(orders), "written": len(orders), "failed": 0, "prompts": len(prompts)}
    write_manifest(
        folder,
        make_manifest("generated", config=plan, inputs=inputs, counts=counts, files=files),
    )
    return StageReport(stage="generate", outcome="done", counts=counts, outputs=(str(folder),))


# --- What draws ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Artist:
    """A checkpoint with its tokenizer and its codec, ready to draw; `digest` names the checkpoint."""

    config: GenerateConfig
    model: Dalle
    tokenizer: TextTokenizer
    codec: Codec
    digest: str
    device: torch.device

    def draw_all(
        self, orders: Sequence[Order], progress: Progress
    ) -> Iterator[tuple[Order, npt.NDArray[np.uint8]]]:
        """Every order with its pixels [H, W, 3], batches of all prompts together."""
        size = self.config.batch_size
        for start in range(0, len(orders), size):
            batch = orders[start : start + size]
            yield from zip(batch, self.draw(batch), strict=True)
            progress(start + len(batch), len(orders), None)

    @torch.inference_mode()
    def draw(self, orders: Sequence[Order]) -> npt.NDArray[np.uint8]:
        """The pictures of one batch, uint8 [B, H, W, 3]."""
        tokens = self.tokenizer.encode_batch(
            [order.prompt for order in orders], self.model.config.text_seq_len
        )
        codes_BN = sample_codes(
            self.model,
            torch.from_numpy(tokens).to(self.device, torch.int64),
            image_seeds=[order.seed for order in orders],
            filter_thres=self.config.top_k,
            temperature=self.config.temperature,
        )
        images_BCHW = self.codec.decode(codes_BN).clamp(0, 1)
        pixels_BHWC = (images_BCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return pixels_BHWC.cpu().contiguous().numpy()


def load_artist(config: GenerateConfig, checkpoint: Path, codec_folder: Path) -> Artist:
    """Load everything that a picture needs.

    Raises ModelError where the tokenizer is not the one that the checkpoint was trained with.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    info = read_info(checkpoint)
    return Artist(
        config=config,
        model=load_dalle(checkpoint, device=device),
        tokenizer=find_tokenizer(checkpoint, info),
        codec=load_codec(codec_folder, device),
        digest=sha256_file(checkpoint / INFO_FILE),
        device=device,
    )


def find_checkpoint(config: GenerateConfig, workspace: Workspace) -> tuple[Path, dict[str, str]]:
    """The checkpoint to draw with, and the inputs that name it in the manifest.

    Raises ContractError where the run has not finished, ModelError where no checkpoint lies.
    """
    if config.checkpoint is not None:
        read_info(config.checkpoint)
        return config.checkpoint, {"checkpoint": sha256_file(config.checkpoint / INFO_FILE)}
    folder = workspace.run(config.run)
    manifest = read_manifest(folder, "run")
    return folder / manifest.details["checkpoint"], {f"runs/{config.run}": input_digest(folder)}


def find_tokenizer(checkpoint: Path, info: CheckpointInfo) -> TextTokenizer:
    """The tokenizer of the checkpoint's run."""
    tokenizer = load_tokenizer(checkpoint.parent.parent)
    if tokenizer.fingerprint != info.tokenizer:
        raise ModelError(
            f"{checkpoint.parent.parent} holds the tokenizer {tokenizer.fingerprint[:12]}, the "
            f"checkpoint was trained with {info.tokenizer[:12]}. Put the run's own tokenizer.json there."
        )
    return tokenizer


# --- What is written -----------------------------------------------------------------------------


def write_pictures(
    folder: Path, pictures: Iterator[tuple[Order, npt.NDArray[np.uint8]]], checkpoint: str
) -> tuple[FileEntry, ...]:
    """Write pictures as they come, then their records and the contact sheet; returns all files."""
    records: list[dict[str, str | int]] = []
    sheet: dict[int, tuple[str, list[bytes]]] = {}
    for order, pixels in pictures:
        made = {"prompt": order.prompt, "seed": str(order.seed), "checkpoint": checkpoint}
        data = encode_png(pixels, made)
        write_bytes(folder / order.file, data)
        named: dict[str, str | int] = {"file": order.file, "sha256": sha256_bytes(data)}
        records.append({**made, **named, "index": order.index, "seed": order.seed})
        sheet.setdefault(order.number, (order.prompt, []))[1].append(data)
    lines = "".join(json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n" for r in records)
    write_bytes(folder / "records.jsonl", lines.encode())
    write_bytes(folder / "contact.png", contact_sheet(list(sheet.values())))
    names = [str(record["file"]) for record in records] + ["contact.png"]
    listed = file_entry(folder / "records.jsonl", folder, rows=len(records))
    return (*(file_entry(folder / name, folder) for name in names), listed)
