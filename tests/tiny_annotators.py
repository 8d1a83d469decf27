"""Tiny captioners and segmenters with random weights, saved as the real ones are."""

from __future__ import annotations

import json
from pathlib import Path

_TEXT = """
    a the of in at on with and near by many some two cold warm hot wet dry dark bright
    car road tree wall roof person dog lamp window engine sky field tower boat bridge
    night day sun rain snow brick metal glass grass asphalt water lit running parked
"""
WORDS = _TEXT.split()


def seeded():
    import torch

    torch.manual_seed(0)


def save_blip(folder: Path) -> Path:
    """Write a BLIP of some ten thousand weights with BERT's kind of tokenizer."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    seeded()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = BertTokenizer(vocab=vocabulary, bos_token="[DEC]")
    ids = {
        "bos_token_id": vocabulary["[DEC]"],
        "sep_token_id": vocabulary["[SEP]"],
        "eos_token_id": vocabulary["[SEP]"],
        "pad_token_id": vocabulary["[PAD]"],
    }
    width = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **width,
            **ids,
            "vocab_size": len(vocabulary),
            "encoder_hidden_size": 16,
            "num_hidden_layers": 1,
            "max_position_embeddings": 64,
        },
        vision_config={**width, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    network = BlipForConditionalGeneration(config)
    spread(network)
    pixels = BlipImageProcessorPil(size={"height": 32, "width": 32})
    network.save_pretrained(folder)
    BlipProcessor(pixels, tokenizer).save_pretrained(folder)
    return folder


def spread(network) -> None:
    """Make random weights large, so that results depend on the image and no draw is close."""
    import torch

    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.6 if "embed" in name else 0.3)


def sharpen(network) -> None:
    """Make the borders of masks steep, as trained weights do."""
    import torch

    with torch.no_grad():
        for mlp in network.mask_decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight *= 40.0


def save_sam(folder: Path) -> Path:
    """Write a SAM of 64 px."""
    from transformers import SamConfig, SamImageProcessorPil, SamModel

    seeded()
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "output_channels": 16,
            "mlp_dim": 32,
            "window_size": 2,
            "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 64,
            "patch_size": 8,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_depth": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    network = SamModel(config)
    spread(network)
    sharpen(network)
    network.save_pretrained(folder)
    SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    ).save_pretrained(folder)
    return folder


def save_sam2(folder: Path) -> Path:
    """Write a SAM 2 of 64 px; its own image processor would need torchvision."""
    from transformers import Sam2Config, Sam2Model

    seeded()
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "num_attention_heads": 1,
                "image_size": [64, 64],
                "blocks_per_stage": [1, 2, 1, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [4, 4, 4, 4],
                "global_attention_blocks": [2],
                "window_positional_embedding_background_size": [2, 2],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_depth": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    network = Sam2Model(config)
    spread(network)
    sharpen(network)
    network.save_pretrained(folder)
    return folder


def word_tokenizer(*special: str):
    """Return a tokenizer of whole words, with the special words a processor asks for."""
    from transformers import BertTokenizer

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *special]
    vocabulary = {word: number for number, word in enumerate([*names, *WORDS])}
    tokenizer = BertTokenizer(vocab=vocabulary, bos_token="[CLS]", eos_token="[SEP]")
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def save_llava(folder: Path, template: str | None = None) -> Path:
    """Write a LLaVA of CLIP and Llama parts."""
    from transformers import (
        CLIPImageProcessorPil,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    seeded()
    tokenizer = word_tokenizer("<image>")
    width = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            **width,
            "num_hidden_layers": 2,
            "image_size": 32,
            "patch_size": 8,
            "projection_dim": 16,
        },
        text_config={
            "model_type": "llama",
            **width,
            "num_hidden_layers": 1,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    network = LlavaForConditionalGeneration(config)
    spread(network)
    network.save_pretrained(folder)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    processor.save_pretrained(folder)
    return folder


def change_config(folder: Path, **values) -> None:
    """Change entries of a saved model's configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
