"""What `serve.py` compares with: dalle-pytorch behind Flask, called as dalle-service's back end calls it.

    python bench/serve_flask.py WORKSPACE    prints its URL and serves until it is stopped

rom1504/dalle-service (068fb27) needs CUDA and downloads a VQGAN. This server makes the same calls for its
route: the text repeated for each image, `generate_images(text, filter_thres=0.9)` in batches of 4, JPEGs in
base64, under Flask's own server. Model, tokenizer and DiscreteVAE are those of the run `dalle` of the
workspace. Left out: saving each image to disk a second time.
"""

from __future__ import annotations

import base64
import io
import socket
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from PIL import Image

from pipeline.core.storage import make_manifest, write_bytes, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import (
    MODEL_FILE,
    CheckpointInfo,
    load_dalle,
    write_checkpoint,
)
from pipeline.models.codecs.discrete_vae import build_discrete_vae
from pipeline.models.codecs.load import save_codec
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.description import Description
from pipeline.models.tokenizers.load import TOKENIZER_FILE, load_tokenizer, train_bpe
from tests.oracles.codecs import dalle_pytorch
from tests.oracles.dalle import stock_twin

BATCH, THRESHOLD = 4, 0.9
CHECKPOINT = "checkpoints/step-000001"
VAE = {
    "image_size": 128,
    "num_tokens": 1024,
    "codebook_dim": 64,
    "num_layers": 3,
    "num_resnet_blocks": 0,
    "hidden_dim": 32,
    "channels": 3,
}


def seeded_vae() -> Any:
    """A DiscreteVAE of dalle-pytorch, the same weights every time."""
    torch.manual_seed(0)
    return dalle_pytorch().DiscreteVAE(**VAE)


def write_model(workspace: Workspace, *, dim: int, depth: int) -> None:
    """The run `dalle` with random weights, its tokenizer and its codec."""
    codec = build_discrete_vae(
        Description.of(VAE, "bench", "vae_params", "None."), seeded_vae().state_dict()
    )
    folder = workspace.codec("vae")
    save_codec(codec, folder)
    _finish(folder, "codec")
    tokenizer = train_bpe(["a red cube", "a blue cube"] * 4, 300)
    config = DalleConfig(
        dim=dim,
        depth=depth,
        heads=dim // 32,
        dim_head=32,
        text_seq_len=80,
        num_text_tokens=tokenizer.vocab_size,
        num_image_tokens=VAE["num_tokens"],
        image_fmap_size=VAE["image_size"] // 2 ** VAE["num_layers"],
    )
    run = workspace.run("dalle")
    write_bytes(run / TOKENIZER_FILE, tokenizer.json_bytes)
    torch.manual_seed(1)
    info = CheckpointInfo(
        step=1,
        epoch=0,
        consumed=0,
        model=config,
        codec=codec.fingerprint,
        tokenizer=tokenizer.fingerprint,
        shards="0" * 64,
        training={},
    )
    write_checkpoint(run / CHECKPOINT, info, {MODEL_FILE: Dalle(config).state_dict()})
    _finish(run, "run", checkpoint=CHECKPOINT)


def _finish(folder: Path, contract: str, **details: Any) -> None:
    manifest = make_manifest(contract, config={}, inputs={}, counts={}, files=(), details=details)
    write_manifest(folder, manifest)


def main() -> None:
    """Serve."""
    from flask import Flask, jsonify, request

    run = Workspace(Path(sys.argv[1])).run("dalle")
    model = load_dalle(run / CHECKPOINT, device=torch.device("cpu"))
    tokenizer = load_tokenizer(run)
    stock = stock_twin(model).eval()
    stock.vae = seeded_vae().eval()
    app = Flask("dalle-service")

    @app.post("/dalle")
    def draw() -> Any:
        asked = request.get_json(force=True)
        ids = tokenizer.encode_batch([asked["text"]], model.config.text_seq_len)
        text_BT = torch.from_numpy(ids).long().repeat(asked["num_images"], 1)
        parts = [
            stock.generate_images(part, filter_thres=THRESHOLD) for part in text_BT.split(BATCH)
        ]
        return jsonify([_jpeg(image) for image in torch.cat(parts)])

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    print(f"http://127.0.0.1:{port}/", flush=True)
    app.run(port=port, debug=False)


def _jpeg(image_CHW: Any) -> str:
    pixels_HWC = (image_CHW.permute(1, 2, 0).detach().numpy() * 255).astype("uint8")
    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, "JPEG")
    return base64.b64encode(out.getvalue()).decode()


if __name__ == "__main__":
    main()
