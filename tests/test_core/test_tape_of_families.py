"""The row of other vision-language families against the equations, by the low-level call alone."""

import pytest
import torch
import transformers as hf
from bare import BUILDERS
from reference import passed_on, reference, relative
from torch import Tensor

from relevancy.core.tape import record


@pytest.mark.parametrize("family", BUILDERS)
def test_language_row_equals_the_equations(family):
    model, inputs = BUILDERS[family]()
    expected = reference(model, inputs)
    with record(model) as tape:
        logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        rows = tape.relevance(logits.max(-1).values)
    assert relative(logits, expected.logits) < 1e-5
    assert relative(passed_on(rows.language), passed_on(expected.language)) < 1e-5


@pytest.mark.parametrize("family", ["llava_siglip", "llava_qwen2", "paligemma"])
def test_full_scope_where_tokens_are_patches(family):
    model, inputs = BUILDERS[family]()
    expected = reference(model, inputs, full=True)
    with record(model, "full") as tape:
        logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        rows = tape.relevance(logits.max(-1).values)
    assert relative(passed_on(rows.language), passed_on(expected.language)) < 1e-5
    assert relative(rows.vision, expected.vision) < 1e-5


def connected(model: hf.PreTrainedModel, patches: int) -> Tensor:
    """Which patches reach which image token through the connector, by its gradient: (image tokens, patches) of 0, 1."""
    connector = next(
        part for name, part in model.named_modules() if name.endswith(("multi_modal_projector", "connector"))
    )
    seen: list[Tensor] = []
    if model.config.model_type == "internvl":  # its blocks are gathered before the projector
        features = torch.randn(1, patches, 32, requires_grad=True)
        side = int(patches**0.5)
        shuffled = model.model.pixel_shuffle(features.view(1, side, side, 32), scale_factor=0.5)
        output = connector(shuffled.reshape(1, -1, shuffled.shape[-1]))
    else:
        features = torch.randn(1, patches, 32, requires_grad=True)
        output = connector(features)
    for token in range(output.shape[1]):
        (gradient,) = torch.autograd.grad(output[0, token].sum(), features, retain_graph=True)
        seen.append((gradient[0].abs().sum(-1) > 0).float())
    return torch.stack(seen)


@pytest.mark.parametrize("family", ["gemma3", "idefics3", "internvl"])
def test_full_scope_where_a_token_merges_a_block_of_patches(family):
    model, inputs = BUILDERS[family]()
    patches_of = connected(model, 16)
    assert patches_of.sum(1).tolist() == [4, 4, 4, 4]
    expected = reference(model, inputs, full=True, patches_of=patches_of)
    with record(model, "full") as tape:
        logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        rows = tape.relevance(logits.max(-1).values)
    assert relative(rows.vision, expected.vision) < 1e-5
