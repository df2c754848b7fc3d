"""A tiny random Gemma 3 in a folder, which stands in for Google's: with norms of its own, and without `<image>`."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast
from typer.testing import CliRunner

from relevancy.cli import app
from relevancy.demo.language import build_tokenizer
from relevancy.models import bases, checkpoints
from relevancy.train.template import IMAGE

LAYERS, WIDTH = 3, 32


def save_gemma(folder: Path, *, seed: int = 0, width: int = WIDTH) -> Path:
    """A causal language model and its tokenizer, as transformers saves them."""
    spelled = build_tokenizer().backend_tokenizer.to_str().replace(json.dumps(IMAGE), '"<unused0>"')
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(spelled),
        bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip
    assert IMAGE not in tokenizer.get_vocab()
    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16,
        initializer_range=width**-0.5, max_position_embeddings=1024,
        layer_types=["sliding_attention"] * (LAYERS - 1) + ["full_attention"],
    )  # fmt: skip
    model = Gemma3ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(weight, 0, 1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class TrainedGemma:
    """What a training left, the base that it was trained on, and where whole models of it are kept."""

    folder: Path
    base: Path
    caches: Path
    said: str

    def put_in_place(self, patch: pytest.MonkeyPatch) -> None:
        """Let `demo-gemma` be this one."""
        patch.setenv(bases.VARIABLE, str(self.base))
        patch.setenv("XDG_CACHE_HOME", str(self.caches))
        patch.setitem(checkpoints.MODELS, "demo-gemma", checkpoints.Spec(self.folder, "a tiny one"))


def train(folder: Path) -> TrainedGemma:
    """The recipe in miniature."""
    base, caches = save_gemma(folder / "base"), folder / "caches"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(bases.VARIABLE, str(base))
        patch.setenv("XDG_CACHE_HOME", str(caches))
        done = CliRunner().invoke(app, ["train", "demo", "--gemma", "--quick", "--out", str(folder / "run")])
    assert done.exit_code == 0, (done.output, done.exception)
    return TrainedGemma(folder / "run" / "demo-gemma", base, caches, done.output)
