"""A model's hyper-parameters: from shards and options, or checked against a checkpoint's."""

from __future__ import annotations

from pipeline.core.errors import ConfigError, ContractError, ModelError
from pipeline.models.dalle.config import DalleConfig
from pipeline.train.config import TrainConfig, split_words
from pipeline.webdata.index import ShardIndex


def new_model(index: ShardIndex, config: TrainConfig) -> DalleConfig:
    """Hyper-parameters of a new model for these shards.

    Raises ModelError if the code grid is not square or the options don't make a valid model, ConfigError
    for a vocabulary or text length that doesn't match the shards.
    """
    rows, columns = index.grid
    if rows != columns:
        raise ModelError(
            f"The shards hold {rows}×{columns} codes per image, but the model needs a square grid. "
            "Encode with a codec for square images."
        )
    if config.text_seq_len not in (None, index.text_seq_len):
        raise ConfigError(
            f"--text-seq-len {config.text_seq_len}: the shards hold {index.text_seq_len} token ids per "
            "caption. Leave it out, or run `pipeline shard` with that length."
        )
    vocabulary = config.num_text_tokens or index.vocab_size
    if vocabulary < index.vocab_size:
        raise ConfigError(
            f"--num-text-tokens {vocabulary}: the shards' tokenizer has {index.vocab_size} ids. "
            f"Give {index.vocab_size} or more."
        )
    return DalleConfig.from_dict(
        {
            "dim": config.dim,
            "depth": config.depth,
            "heads": config.heads,
            "dim_head": config.dim_head,
            "text_seq_len": index.text_seq_len,
            "num_text_tokens": vocabulary,
            "num_image_tokens": index.codebook_size,
            "image_fmap_size": rows,
            "attn_dropout": config.attn_dropout,
            "ff_dropout": config.ff_dropout,
            "loss_img_weight": config.loss_img_weight,
            "reversible": config.reversible,
            "attn_types": split_words(config.attn_types),
            "stable": config.stable,
            "sandwich_norm": config.sandwich_norm,
            "shift_tokens": config.shift_tokens,
            "rotary_emb": config.rotary_emb,
            "shared_attn_ids": _layer_ids(config.shared_attn_ids),
            "shared_ff_ids": _layer_ids(config.shared_ff_ids),
            "share_input_output_emb": config.share_input_output_emb,
        }
    )


def check_fit(
    model: DalleConfig, index: ShardIndex, *, codec: str = "", tokenizer: str = "", source: str
) -> None:
    """Raise ContractError if the model of checkpoint `source` can't be trained further on these shards.

    `codec` and `tokenizer` are the fingerprints that it was trained with; "" if unknown.
    """
    rows, columns = index.grid
    facts: tuple[tuple[str, object, object], ...] = (
        ("token ids per caption", model.text_seq_len, index.text_seq_len),
        ("codes in the codebook", model.num_image_tokens, index.codebook_size),
        ("codes per image", model.image_seq_len, rows * columns),
        ("the codec", codec[:12], index.codec.fingerprint[:12] if codec else ""),
        ("the tokenizer", tokenizer[:12], index.tokenizer.fingerprint[:12] if tokenizer else ""),
    )
    for what, expected, found in facts:
        if expected != found:
            raise ContractError(
                f"{source} was trained with {what}: {expected}, but the shards {index.name!r} have {found}. "
                "Shard with the checkpoint's own tokenizer, codec and text length."
            )
    if model.num_text_tokens < index.vocab_size:
        raise ContractError(
            f"{source} has {model.num_text_tokens} text ids, but the shards' tokenizer has "
            f"{index.vocab_size}. Shard with the checkpoint's own tokenizer."
        )


def _layer_ids(text: str | None) -> tuple[int | str, ...] | None:
    if text is None:
        return None
    return tuple(int(word) if word.isdigit() else word for word in split_words([text]))
