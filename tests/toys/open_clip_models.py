"""Folders of random open_clip models, one of each family, as `hf download` leaves them; nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
VIT = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 64}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64}
CONVNEXT = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
# as open_clip's configuration of SigLIP, with a smaller trunk
MAP_POOLED = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none", "image_size": 224}
WORDS = (
    "<pad>",
    "</s>",
    "<unk>",
    "a",
    "photo",
    "of",
    "the",
    "red",
    "green",
    "blue",
    "cat",
    "Cat",
    "dog",
    ",",
    ".",
    "!",
)
LOCAL_TEXT = {"hf_tokenizer_name": "nobody/has-this", "context_length": 16, "vocab_size": len(WORDS)}
SIGLIP_TEXT = LOCAL_TEXT | {
    "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 32, "heads": 1, "layers": 1, "no_causal_mask": True,
    "proj_bias": True, "pool_type": "last",
}  # fmt: skip
OF_TRANSFORMERS = LOCAL_TEXT | {
    "hf_model_name": "nobody/has-this", "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear",
}  # fmt: skip
HALVES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}
FAMILIES: dict[str, dict[str, Any]] = {
    "clip_vit": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT},
    "clip_resnet": {"embed_dim": 16, "vision_cfg": RESNET, "text_cfg": TEXT},
    "convnext": {"embed_dim": 16, "vision_cfg": CONVNEXT, "text_cfg": TEXT},
    "siglip": {"embed_dim": 192, "init_logit_bias": -10, "custom_text": True, "vision_cfg": MAP_POOLED,
               "text_cfg": SIGLIP_TEXT},
    "text_of_transformers": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": OF_TRANSFORMERS},
}  # fmt: skip


def write_model(family: str, folder: Path) -> Any:
    """Write the folder of a family, tokenizer included where the model needs one; return the model."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": FAMILIES[family], "preprocess_cfg": HALVES if family == "siglip" else {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    text = dict(FAMILIES[family]["text_cfg"])
    if "hf_tokenizer_name" in text:
        write_tokenizer(folder)
    if "hf_model_name" in text:
        write_text_tower(folder)
        text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False, text_cfg=text)
    state = {name: value.contiguous() for name, value in model.eval().state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return model


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of whole words, which tells capitals and punctuation apart unless they are cleaned away."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="<unk>"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    known.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=known, **tokens).save_pretrained(folder)


def write_text_tower(folder: Path) -> None:
    """Write the configuration of a small text tower of transformers."""
    from transformers import RobertaConfig

    sizes = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    more = {"intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 0, "eos_token_id": 1}
    RobertaConfig(**sizes, **more, bos_token_id=1).save_pretrained(folder)
