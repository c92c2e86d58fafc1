"""A tokenizer and a config for small models trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from umer1.model.config import ModelConfig, VisionConfig
from umer1.prompts import DISC_TOKEN, GEN_TOKEN

# The special tokens of Qwen2-VL, in the order of its ids.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# How Qwen2 splits text before byte-pair encoding: words, single digits, punctuation, spaces.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer(
    corpus: Iterable[str], vocab_size: int, phrases: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens in all.

    Ids: bytes and merges learnt from `corpus`, the 14 special tokens, `phrases` (fixed sentences
    that become one ordinary token each), `<gen_emb>`, `<disc_emb>`.
    """
    phrases = list(dict.fromkeys(phrases))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    added = len(SPECIAL_TOKENS) + len(phrases) + 2
    if vocab_size < len(alphabet) + added:
        raise ValueError(
            f"vocab_size is {vocab_size}, want at least {len(alphabet) + added} "
            f"(256 bytes, {len(SPECIAL_TOKENS)} special tokens, {len(phrases)} phrases, 2)"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size - added, initial_alphabet=alphabet, show_progress=False
    )
    # A phrase is one token: learning merges inside it would waste them.
    tokenizer.train_from_iterator(_without(corpus, phrases), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    for token in [*phrases, GEN_TOKEN, DISC_TOKEN]:
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[
            token for token in SPECIAL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")
        ],
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def tiny_config(
    vocab_size: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int = 384,
    vision_dim: int = 96,
    vision_depth: int = 2,
    vision_heads: int = 4,
    vision_mlp_ratio: int = 4,
    patch_size: int = 14,
    tie_word_embeddings: bool = True,
    initializer_range: float = 0.02,
) -> ModelConfig:
    """A small config whose token ids are those of `tokenizer`.

    The M-RoPE sections divide the frequencies as Qwen2-VL does: 1/4 time, 3/8 height, 3/8 width.
    """
    half = hidden // heads // 2
    space = half * 3 // 8
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", "<|image_pad|>"),
            ("video_token_id", "<|video_pad|>"),
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
            ("bos_token_id", "<|endoftext|>"),
            ("eos_token_id", "<|im_end|>"),
            ("pad_token_id", "<|endoftext|>"),
        )
    }
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        mrope_section=(half - 2 * space, space, space),
        tie_word_embeddings=tie_word_embeddings,
        initializer_range=initializer_range,
        vision=VisionConfig(
            depth=vision_depth,
            embed_dim=vision_dim,
            hidden_size=hidden,
            num_heads=vision_heads,
            mlp_ratio=vision_mlp_ratio,
            patch_size=patch_size,
        ),
        **ids,
    )


def _without(corpus: Iterable[str], phrases: list[str]) -> Iterable[str]:
    for text in corpus:
        for phrase in phrases:
            text = text.replace(phrase, "\n")
        yield text
