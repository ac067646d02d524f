"""The training of a codec, which can be saved and resumed at any step.

A step depends only on the seed, its number and the state: every random draw has its own generator. So a
run that was killed and resumed ends with the same weights as an uninterrupted one (on the same CPU with the
same number of threads).

Before the first step the codec's linear path is set to the principal components of patches, and the
codebook is initialised by k-means. Measured on held-out drawings at 128 pixels and 512 codes, in time on one
core: 20.0 dB before any training, 21.3 dB with correct colours after 60 seconds. From random weights such a
network had 20.8 dB after 146 seconds, with rare colours wrong; there, after 100 steps, this codebook had 17.9
dB, FSQ 17.1 and a Gumbel softmax 16.4. A `DiscreteVAE` (`discrete`) with 32 channels starts at 18.9 dB and
has 19.6 after 300 steps, as the VQ codec has after 500; its steps take 4 times as long.

Legend: B images of a batch, M training images, C colours, H W pixels, R S grid, D code width, K entries, X
latents.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import math
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.discrete_vae import DiscreteVAEConfig
from pipeline.models.codecs.pixels import Pixels, to_images, to_pixels
from pipeline.models.codecs.reconstruct import psnr
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.train_codec.codebook import CodebookLearner
from pipeline.train_codec.config import TrainCodecConfig
from pipeline.train_codec.discrete import DiscreteVAETrainee

# What torch.load may raise for a truncated or otherwise invalid file.
UNREADABLE = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(OSError, EOFError, pickle.UnpicklingError),
)
MEASUREMENTS = 20  # of the reconstructions, evenly spaced over the steps
_MEASURED = 64  # images; all measurements take as long as about 50 steps of 8 images
_SQUARED_WEIGHT = (
    4.0  # of the squared error relative to the absolute one: most errors are far below 1/4
)
_COMMITMENT = 1.0
_START_IMAGES = 512  # images for the initial components and codebook
_START_BATCH = 32
_ENCODER_RATE = 0.3  # of the learning rate, since the codebook has to follow the encoder
_LEVELS = 4  # of a DiscreteVAE: a code is 16 × 16 pixels, as in the VQ codec
_BLOCKS = 1
_WARMUP_STEPS = 30
_LAST_RATE = 0.02  # of the peak learning rate
_BETAS = (0.9, 0.95)
_WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class _Batches:
    """Images that can be iterated several times, moved to the device one part at a time."""

    parts: Sequence[Pixels]
    device: torch.device

    def __iter__(self) -> Iterator[Tensor]:
        return (to_images(part, self.device) for part in self.parts)


@dataclass(frozen=True)
class StepLog:
    """One line of log.jsonl; `val_psnr_db` is None at steps after which it was not measured."""

    step: int
    loss: float
    restarted: int
    val_psnr_db: float | None = None


@dataclass
class Training:
    """A codec in training, after `step` steps; `logs` has a line per step."""

    config: TrainCodecConfig
    codec: VQCodec | DiscreteVAETrainee
    optimizer: torch.optim.Optimizer
    learner: CodebookLearner
    step: int = 0
    logs: list[StepLog] = field(default_factory=list)

    def advance(self, pixels_MHWC: Pixels) -> StepLog:
        """Do one step on a batch of the training images; returns its log."""
        if self.step == 0:
            self._start(pixels_MHWC)
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(self.step, self.config)
        rows = batch_rows(self.step, len(pixels_MHWC), self.config.batch_size, self.config.seed)
        images_BCHW = to_images(pixels_MHWC[rows], self.learner.codebook_KD.device)
        loss, restarted = self._losses(images_BCHW)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        record = StepLog(step=self.step, loss=round(loss.item(), 6), restarted=restarted)
        self.logs.append(record)
        self.step += 1
        return record

    @property
    def is_measured(self) -> bool:
        """Whether the reconstructions are measured after the last step."""
        every = -(-self.config.steps // MEASUREMENTS)
        return self.step % every == 0 or self.step == self.config.steps

    @torch.no_grad()
    def measure(self, pixels_MHWC: Pixels) -> None:
        """Add the mean PSNR of the first images to the log of the last step."""
        images_BCHW = to_images(pixels_MHWC[:_MEASURED], self.learner.codebook_KD.device)
        codes_BRS = self.codec.nearest(self.codec.encode_latents(images_BCHW))
        decoded_BHWC = to_pixels(self.codec.decode_latents(self.codec.look_up(codes_BRS)))
        mean_db = float(np.mean(psnr(pixels_MHWC[:_MEASURED], decoded_BHWC)))
        self.logs[-1] = dataclasses.replace(self.logs[-1], val_psnr_db=round(mean_db, 3))

    def _losses(self, images_BCHW: Tensor) -> tuple[Tensor, int]:
        latents_BDRS = self.codec.encode_latents(images_BCHW)
        codes_BRS = self.codec.nearest(latents_BDRS.detach())
        entries_BDRS = self.codec.look_up(codes_BRS)
        if (
            len(self.optimizer.param_groups) == 1
        ):  # only the decoder is trained; k-means set the codebook
            return reconstruction_loss(self.codec.decode_latents(entries_BDRS), images_BCHW), 0
        # Straight-through estimator: the decoder gets the entries, the encoder the decoder's gradient.
        quantized_BDRS = latents_BDRS + (entries_BDRS - latents_BDRS).detach()
        loss = reconstruction_loss(self.codec.decode_latents(quantized_BDRS), images_BCHW)
        loss = loss + _COMMITMENT * F.mse_loss(latents_BDRS, entries_BDRS)
        restarted = self.learner.update(
            _rows_of(latents_BDRS.detach()), codes_BRS.flatten(), self._generator("restart")
        )
        return loss, restarted

    @torch.no_grad()
    def _start(self, pixels_MHWC: Pixels) -> None:
        count = min(_START_IMAGES, len(pixels_MHWC))
        rows = torch.randperm(len(pixels_MHWC), generator=self._generator("images"))[:count]
        device = self.learner.codebook_KD.device
        parts = [pixels_MHWC[part.numpy()] for part in rows.split(_START_BATCH)]
        self.codec.set_patches(_Batches(parts, device))
        latents = [_rows_of(self.codec.encode_latents(to_images(part, device))) for part in parts]
        self.learner.start(torch.cat(latents), self._generator("k-means"))

    def _generator(self, purpose: str) -> torch.Generator:
        return seeded_generator(f"{self.config.seed} {purpose} {self.step}")

    def finished(self) -> Codec:
        """The finished codec, in eval mode."""
        codec = self.codec.finished() if isinstance(self.codec, DiscreteVAETrainee) else self.codec
        return codec.eval()

    def to_bytes(self) -> bytes:
        """The complete state as a checkpoint."""
        buffer = io.BytesIO()
        torch.save(
            {
                "step": self.step,
                "codec": self.codec.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "learner": self.learner.state(),
                "logs": [dataclasses.astuple(entry) for entry in self.logs],
            },
            buffer,
        )
        return buffer.getvalue()

    def continue_from(self, data: bytes) -> None:
        """Restore the result of `to_bytes`; raises one of UNREADABLE for invalid bytes."""
        state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
        self.codec.load_state_dict(state["codec"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.learner.load(state["learner"])
        self.logs = [StepLog(*entry) for entry in state["logs"]]
        self.step = state["step"]


def begin_training(config: TrainCodecConfig, device: torch.device) -> Training:
    """New training with weights drawn by the seed.

    Raises ModelError if the codec does not support the image size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        student, parts = _new_vq(config) if config.kind == "vq" else _new_discrete(config)
    student.to(device)
    groups = [
        {"params": list(parameters), "share": share}
        for parameters, share in zip(parts, (1.0, _ENCODER_RATE), strict=False)
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=_BETAS, weight_decay=_WEIGHT_DECAY
    )
    learner = CodebookLearner(student.codebook_KD)
    return Training(config=config, codec=student, optimizer=optimizer, learner=learner)


# A codec in training, with the parameters of its decoder and, if it is trained by gradients, its encoder.
_New = tuple[VQCodec | DiscreteVAETrainee, Sequence[Iterable[nn.Parameter]]]


def _new_vq(config: TrainCodecConfig) -> _New:
    codec = VQCodec(
        VQConfig(
            image_size=config.image_size,
            num_tokens=config.num_tokens,
            code_dim=config.code_dim,
            channels=config.channels,
            deep_encoder=config.encoder == "convolutional",
        )
    )
    codec.patch_encoder.requires_grad_(False)
    codec.patch_decoder.requires_grad_(False)
    parts = [codec.decoder.parameters()]
    return codec, parts if codec.encoder is None else [*parts, codec.encoder.parameters()]


def _new_discrete(config: TrainCodecConfig) -> _New:
    student = DiscreteVAETrainee(
        DiscreteVAEConfig(
            image_size=config.image_size,
            num_tokens=config.num_tokens,
            codebook_dim=config.code_dim,
            num_layers=_LEVELS,
            num_resnet_blocks=_BLOCKS,
            hidden_dim=config.channels,
        )
    )
    return student, [student.network.decoder.parameters(), student.encoder_parameters()]


def reconstruction_loss(decoded_BCHW: Tensor, images_BCHW: Tensor) -> Tensor:
    """Mean absolute error plus `_SQUARED_WEIGHT` times the mean squared error."""
    squared = F.mse_loss(decoded_BCHW, images_BCHW)
    return F.l1_loss(decoded_BCHW, images_BCHW) + _SQUARED_WEIGHT * squared


def learning_rate(step: int, config: TrainCodecConfig) -> float:
    """Linear warm-up, then cosine decay to `_LAST_RATE` of the peak."""
    warmup = max(1, min(_WARMUP_STEPS, config.steps // 10))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    return config.learning_rate * (
        _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2
    )


def batch_rows(step: int, images: int, batch_size: int, seed: int) -> npt.NDArray[np.int64]:
    """The image indices of step `step`: every epoch visits all images in a new random order."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    return np.array([_permutation(at // images, images, seed)[at % images] for at in positions])


@functools.lru_cache(maxsize=4)
def _permutation(epoch: int, images: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(images)


def seeded_generator(words: str) -> torch.Generator:
    """A generator seeded by a text, so that every purpose has its own."""
    seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(seed)


def _rows_of(latents_BDRS: Tensor) -> Tensor:
    """Latents as rows [X, D]."""
    return latents_BDRS.permute(0, 2, 3, 1).flatten(0, 2)
