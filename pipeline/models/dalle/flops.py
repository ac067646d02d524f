"""FLOPs of a training step.

They are the model's, not the implementation's: a product of m×k and k×n counts 2·m·k·n, attention counts as
causal and full, recomputation counts nothing, and backward counts twice forward. A sample of T + N positions
costs 3 · (Σ layers (T + N) · (8·D·H·K + 24·D²) + 2·H·K·(T + N)² + 2·D·(T·Vt + N·Vi)), where 24·D² are the
GEGLU's two products of width 4·D, and each position counts only the logits of its vocabulary.

Legend: T text positions, N codes, D model width, H heads, K width of a head, Vt, Vi vocabularies.
"""

from __future__ import annotations

from pipeline.models.dalle.config import DalleConfig


def training_flops(model: DalleConfig) -> float:
    """FLOPs of one sample's forward and backward pass, by the formula above."""
    length, inner, dim = model.total_seq_len, model.heads * model.dim_head, model.dim
    layer = length * (8 * dim * inner + 24 * dim**2) + 2 * inner * length**2
    logits = 2 * dim * model.text_seq_len * model.total_text_tokens
    logits += 2 * dim * model.image_seq_len * model.num_image_tokens
    return 3.0 * (model.depth * layer + logits)
