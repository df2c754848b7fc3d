"""The row against the equations, and the model given back as it came."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
from observers import State
from reference import passed_on, reference, relative
from torch import Tensor

from relevancy.core.tape import record
from relevancy.errors import RelevancyError

QUESTIONS = ["Is the duck floating? (a) Yes (b) No", "What color is the ball?", "red"]


def inputs_for(processor, questions: list[str], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Left-padded prompts, each with a picture of its own."""
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
        )
        for question in questions
    ]
    pictures = [tiny.picture(seed=index) for index in range(len(questions))]
    batch = processor(images=pictures, text=texts, padding=True, return_tensors="pt", add_special_tokens=False)
    return {**batch, "pixel_values": batch["pixel_values"].to(dtype)}


def rows_of(model, inputs, scope="full", **options):
    with record(model, scope, **options) as tape:
        logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        return tape.relevance(logits.max(-1).values), logits.detach()


@pytest.mark.parametrize("rule", ["clamp", "magnitude"])
def test_row_equals_the_equations(pair, rule):
    model, processor = pair
    inputs = inputs_for(processor, QUESTIONS[:1])
    expected = reference(model, inputs, full=True, rule=rule)
    rows, logits = rows_of(model, inputs, rule=rule)
    assert relative(logits, expected.logits) < 1e-5
    assert relative(passed_on(rows.language), passed_on(expected.language)) < 1e-5
    assert relative(rows.vision, expected.vision) < 1e-5
    assert rows.language.dtype == rows.vision.dtype == torch.float32
    assert (rows.vision[:, 0] > 0).all()  # the class token starts at zero: the tower's layers really took part
    if rule == "clamp":
        torch.testing.assert_close(rows.cut, expected.cut, rtol=1e-5, atol=1e-6)
        assert 0.1 < float(rows.cut) < 0.9
    else:
        assert rows.cut is None


def test_row_equals_the_equations_in_float64():
    model, processor = tiny.gemma_clip()
    model = model.double()
    inputs = inputs_for(processor, QUESTIONS[:1], torch.float64)
    expected = reference(model, inputs, full=True)
    rows, _ = rows_of(model, inputs)
    # Rows are handed out in float32, and eager attention takes its softmax in float32 whatever the model's type.
    assert relative(passed_on(rows.language), passed_on(expected.language)) < 2e-6
    assert relative(rows.vision, expected.vision) < 2e-6


@pytest.mark.parametrize("rule", ["clamp", "magnitude"])
def test_what_each_head_adds_equals_the_equations_in_float64(rule):
    model, processor = tiny.gemma_clip()
    model = model.double()
    inputs = inputs_for(processor, QUESTIONS[:1], torch.float64)
    expected = reference(model, inputs, rule=rule)
    rows, _ = rows_of(model, inputs, "language", rule=rule, heads=True)
    assert list(rows.heads) == list(range(len(expected.heads)))
    for found, own in zip(rows.heads.values(), expected.heads, strict=True):
        assert found.shape == own.shape
        for head in range(own.shape[1]):  # each by itself: a small one is not hidden by a large one
            assert relative(found[:, head], own[:, head]) < 2e-5
    apart = torch.cat(list(rows.heads.values()), 1)
    assert apart.shape[1] > 4
    unit = torch.nn.functional.one_hot(torch.tensor([apart.shape[-1] - 1]), apart.shape[-1])
    torch.testing.assert_close(rows.language, apart.sum(1) + unit, rtol=1e-5, atol=1e-7)


def test_heads_of_a_row_that_is_not_carried_add_up_to_it(pair):
    model, processor = pair
    inputs = inputs_for(processor, QUESTIONS)
    rows, _ = rows_of(model, inputs, "language", carried=False, heads=True)
    plain, _ = rows_of(model, inputs, "language", carried=False)
    torch.testing.assert_close(rows.language, plain.language, rtol=1e-5, atol=1e-7)
    apart = torch.cat(list(rows.heads.values()), 1).sum(1)
    assert relative(apart[:, :-1], plain.language[:, :-1]) < 1e-5
    assert plain.heads is None


def test_tiles_and_chosen_layers_by_head(pair, monkeypatch):
    model, processor = pair
    inputs = inputs_for(processor, QUESTIONS)
    whole, _ = rows_of(model, inputs, "full", layers=[0, -1], heads=True)
    alone, _ = rows_of(model, inputs, "full", layers=[0, -1])
    assert relative(whole.vision, alone.vision) < 1e-5
    monkeypatch.setattr("relevancy.core.attention._CPU_TILE_BYTES", 4000)
    tiled, _ = rows_of(model, inputs, "full", layers=[0, -1], heads=True)
    assert list(tiled.heads) == list(whole.heads) == sorted({0, len(model.get_decoder().layers) - 1})
    for layer, own in whole.heads.items():
        assert relative(tiled.heads[layer], own) < 1e-5


def test_language_scope_is_the_same_row_without_the_tower(pair):
    model, processor = pair
    inputs = inputs_for(processor, QUESTIONS[:1])
    language, _ = rows_of(model, inputs, "language")
    full, _ = rows_of(model, inputs, "full")
    assert language.vision is None
    torch.testing.assert_close(language.language, full.language, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rule", ["clamp", "magnitude"])
def test_batch_of_unequal_lengths_equals_one_by_one(pair, rule):
    model, processor = pair
    together = inputs_for(processor, QUESTIONS)
    rows, _ = rows_of(model, together, rule=rule)
    for index in range(len(QUESTIONS)):
        length = int(together["attention_mask"][index].sum())
        alone = {
            "input_ids": together["input_ids"][index : index + 1, -length:],
            "attention_mask": together["attention_mask"][index : index + 1, -length:],
            "pixel_values": together["pixel_values"][index : index + 1],
        }
        single, _ = rows_of(model, alone, rule=rule)
        padding = rows.language.shape[1] - length
        assert (rows.language[index, :padding] == 0).all()
        assert relative(passed_on(rows.language[index, padding:]), passed_on(single.language[0])) < 1e-5
        assert relative(rows.vision[index], single.vision[0]) < 1e-5
        if rule == "clamp":
            torch.testing.assert_close(rows.cut[index], single.cut[0], rtol=1e-4, atol=1e-6)
    assert not rows.language.isnan().any()


def test_tiles_do_not_change_the_row(pair, monkeypatch):
    model, processor = pair
    inputs = inputs_for(processor, QUESTIONS)
    whole, _ = rows_of(model, inputs)
    monkeypatch.setattr("relevancy.core.attention._CPU_TILE_BYTES", 4000)
    tiled, _ = rows_of(model, inputs)
    assert relative(passed_on(tiled.language), passed_on(whole.language)) < 1e-5
    assert relative(tiled.vision, whole.vision) < 1e-5


@pytest.mark.parametrize("vision", [tiny.clip, tiny.dinov2], ids=["clip", "dinov2"])
def test_a_class_token_among_the_image_tokens_keeps_its_own(vision):
    """Strategy "full" hands the class token on as an image token: each tower token has its own image token's value."""
    tokenizer = tiny.gemma_tokenizer()
    decoder = tiny.text(tiny.LlamaConfig, len(tokenizer))
    model = tiny.build(
        decoder, vision(), tokenizer=tokenizer, seed=5, vision_feature_select_strategy="full", image_seq_length=17
    )
    processor = tiny.processor_for(tokenizer)
    processor.vision_feature_select_strategy = "full"
    inputs = inputs_for(processor, QUESTIONS[:2])
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist() == [17, 17]
    expected = reference(model, inputs, full=True)
    rows, _ = rows_of(model, inputs)
    assert relative(passed_on(rows.language), passed_on(expected.language)) < 1e-5
    assert relative(rows.vision, expected.vision) < 1e-5


def test_where_nothing_flows_nothing_is_cut(built):
    model, processor = built["gemma-clip"]
    inputs = inputs_for(processor, QUESTIONS[:1])
    with record(model) as tape:
        rows = tape.relevance(model(**inputs, logits_to_keep=1).logits[:, -1, 7] * 0)
    assert rows.cut.tolist() == [0]
    assert passed_on(rows.language).count_nonzero() == 0


def test_a_graph_is_given_up_unless_it_is_asked_for(built):
    model, processor = built["gemma-clip"]
    with record(model) as tape:
        logits = model(**inputs_for(processor, QUESTIONS[:1]), logits_to_keep=1).logits
        tape.relevance(logits[:, -1, 7])
        with pytest.raises(RuntimeError, match="second time"):
            tape.relevance(logits[:, -1, 8])


def test_other_positions_and_targets_over_one_forward_do_not_leak(pair):
    model, processor = pair
    inputs = inputs_for(processor, QUESTIONS[:1])
    with record(model, "full") as tape:
        logits = model(**inputs, logits_to_keep=4).logits
        several = [tape.relevance(logits[:, place, 7], position=place, retain_graph=True) for place in (-1, -3, -4, -1)]
    for place, rows in zip((-1, -3, -4), several, strict=False):
        expected = reference(model, inputs, torch.tensor([7]), position=place, full=True)
        assert relative(passed_on(rows.language, place), passed_on(expected.language, place)) < 1e-5
        assert relative(rows.vision, expected.vision) < 1e-5
    torch.testing.assert_close(several[0].language, several[3].language, rtol=0, atol=0)


def test_positions_may_differ_within_a_batch(built):
    model, processor = built["gemma-clip"]
    inputs = inputs_for(processor, QUESTIONS[:2])
    with record(model) as tape:
        logits = model(**inputs, logits_to_keep=2).logits
        rows = tape.relevance(torch.stack([logits[0, -2, 5], logits[1, -1, 5]]), position=torch.tensor([-2, -1]))
    first = reference(model, inputs, torch.tensor([5, 5]), position=-2)
    second = reference(model, inputs, torch.tensor([5, 5]), position=-1)
    assert relative(rows.language[0], first.language[0]) < 1e-5
    assert relative(rows.language[1], second.language[1]) < 1e-5


def test_chosen_layers_only(built):
    model, processor = built["gemma-clip"]
    inputs = inputs_for(processor, QUESTIONS[:1])
    every, _ = rows_of(model, inputs, "language", layers=range(3))
    default, _ = rows_of(model, inputs, "language")
    torch.testing.assert_close(every.language, default.language, rtol=0, atol=0)
    last, _ = rows_of(model, inputs, "language", layers=[-1])
    same, _ = rows_of(model, inputs, "full", layers=[2])
    assert relative(last.language, same.language) < 1e-5
    assert relative(last.language, default.language) > 1e-3


@pytest.mark.parametrize("layers", [[1.5], [True], ["a"], "a", 1])
def test_layers_that_are_no_whole_numbers(built, layers):
    with pytest.raises(RelevancyError, match="whole numbers"), record(built["gemma-clip"][0], layers=layers):
        pass


@pytest.mark.parametrize("layers", [[], [3], [-4]])
def test_layers_that_are_not_there(built, layers):
    with pytest.raises(RelevancyError, match="0 to 2"), record(built["gemma-clip"][0], layers=layers):
        pass


def test_float_mask_equals_bool_mask(built):
    model, processor = built["llama-clip"]
    inputs = inputs_for(processor, QUESTIONS)
    rows, _ = rows_of(model, inputs)
    keep = inputs["attention_mask"].bool()
    length = keep.shape[1]
    seen = (torch.ones(length, length, dtype=torch.bool).tril() & keep[:, None, :])[:, None]
    additive = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with_float, _ = rows_of(model, {**inputs, "attention_mask": additive})
    with_bool, _ = rows_of(model, {**inputs, "attention_mask": seen})
    positions = (keep.long().cumsum(-1) - 1).clamp(min=0)
    torch.testing.assert_close(with_float.language, with_bool.language, rtol=1e-5, atol=1e-7)
    shifted, _ = rows_of(model, {**inputs, "attention_mask": seen, "position_ids": positions})
    assert relative(shifted.language, rows.language) < 1e-4


@pytest.mark.parametrize("scope", ["language", "full"])
@pytest.mark.parametrize("fails", [False, True])
def test_model_is_given_back_unchanged(pair, scope, fails):
    model, processor = pair
    inputs = inputs_for(processor, QUESTIONS[:1])
    model(**inputs)  # transformers adds hooks of its own on the first forward
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[3].grad = torch.ones_like(parameters[3])
    model.train()
    model.get_decoder().layers[0].mlp.eval()
    weights = [parameter.detach().clone() for parameter in parameters]
    before = State(model)
    try:
        with record(model, scope) as tape:
            assert not model.training
            logits = model(**inputs, logits_to_keep=1).logits
            tape.relevance(logits[:, -1].max(-1).values)
            if fails:
                raise KeyError("planted")
    except KeyError:
        assert fails
    after = State(model)
    assert vars(after).keys() == vars(before).keys()
    for aspect, value in vars(before).items():
        assert vars(after)[aspect] == value, aspect
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))
    assert torch.is_grad_enabled()
    model.eval()
    parameters[0].requires_grad_(True)
    parameters[3].grad = None


def checkpointed(model):
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    model.train()


ASKING = {
    "enable_input_require_grads": lambda model: model.enable_input_require_grads(),
    "gradient checkpointing": checkpointed,
    "a hook on the embeddings": lambda model: model.get_input_embeddings().register_forward_hook(
        lambda _, __, output: output.requires_grad_()
    ),
    "a hook on the tower": lambda model: (
        model.get_encoder(modality="image")
        .get_input_embeddings()
        .register_forward_hook(lambda _, __, output: output.requires_grad_())
    ),
}


@pytest.mark.parametrize("asking", ASKING)
@pytest.mark.parametrize("scope", ["language", "full"])
def test_inputs_that_ask_for_gradients_give_the_same_row(built, asking, scope):
    plain, processor = built["gemma-clip"]
    inputs = inputs_for(processor, QUESTIONS[:2])
    expected, _ = rows_of(plain, inputs, scope, layers=[1, 2])
    model = tiny.gemma_clip()[0]
    model(**inputs)
    ASKING[asking](model)
    before = State(model)
    rows, _ = rows_of(model, inputs, scope, layers=[1, 2])
    after = State(model)
    torch.testing.assert_close(rows.language, expected.language, rtol=1e-6, atol=0)
    if scope == "full":
        torch.testing.assert_close(rows.vision, expected.vision, rtol=1e-6, atol=0)
    for aspect, value in vars(before).items():
        assert vars(after)[aspect] == value, aspect


def test_pixels_that_ask_for_gradients_give_the_same_row(built):
    model, processor = built["gemma-clip"]
    inputs = inputs_for(processor, QUESTIONS[:1])
    expected, _ = rows_of(model, inputs)
    asking = inputs["pixel_values"].clone().requires_grad_()
    rows, _ = rows_of(model, inputs | {"pixel_values": asking})
    torch.testing.assert_close(rows.vision, expected.vision, rtol=0, atol=0)
    assert asking.grad is None


def test_one_model_recorded_in_many_threads(built):
    model, processor = built["gemma-clip"]
    each = [inputs_for(processor, [question]) for question in QUESTIONS * 3]
    expected = [rows_of(model, inputs)[0] for inputs in each]
    before = State(model)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda inputs: rows_of(model, inputs)[0], each))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.language, other.language, rtol=0, atol=0)
        torch.testing.assert_close(one.vision, other.vision, rtol=0, atol=0)
    for aspect, value in vars(before).items():
        assert vars(State(model))[aspect] == value, aspect


def test_a_model_runs_in_one_thread_while_another_records_it(built):
    model, processor = built["gemma-clip"]
    inputs = inputs_for(processor, QUESTIONS[:1])
    logits, (rows, _) = model(**inputs).logits.detach(), rows_of(model, inputs, "language")
    disturbed: list[Tensor] = []

    def run_beside(*_):
        with ThreadPoolExecutor(1) as pool:
            disturbed.append(pool.submit(lambda: model(**inputs).logits.detach()).result())

    layers = model.get_decoder().layers
    with record(model) as tape:
        handles = [layer.register_forward_hook(once(run_beside)) for layer in (layers[0].mlp, layers[-1].mlp.act_fn)]
        kept = model(**inputs, logits_to_keep=1).logits[:, -1]
        found = tape.relevance(kept.max(-1).values)
    for handle in handles:
        handle.remove()
    assert len(disturbed) == 2
    for beside in disturbed:
        torch.testing.assert_close(beside, logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.language, rows.language, rtol=1e-6, atol=0)


def once(call):
    left = [call]
    return lambda *_: left.pop()() if left else None


def test_eager_and_mixed_implementations_come_back(built):
    model, processor = built["gemma-clip"]
    model.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
    rows_of(model, inputs_for(processor, QUESTIONS[:1]))
    assert model.config.text_config._attn_implementation == "eager"
    assert model.config.vision_config._attn_implementation == "sdpa"
    model.set_attn_implementation("sdpa")


def test_recording_works_under_no_grad(built):
    model, processor = built["gemma-clip"]
    inputs = inputs_for(processor, QUESTIONS[:1])
    expected, _ = rows_of(model, inputs)
    with torch.no_grad():
        found, _ = rows_of(model, inputs)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(found.language, expected.language, rtol=0, atol=0)


def test_generation_inside_a_recording_continues_from_its_cache(built):
    model, processor = built["gemma-clip"]
    inputs = inputs_for(processor, QUESTIONS[:2])
    expected = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    with record(model) as tape:
        output = model(**inputs, logits_to_keep=1, use_cache=True)
        rows = tape.relevance(output.logits[:, -1].max(-1).values)
        first = output.logits[:, -1].argmax(-1, keepdim=True)
        with torch.no_grad():
            found = model.generate(
                input_ids=torch.cat([inputs["input_ids"], first], 1),
                attention_mask=torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1),
                past_key_values=output.past_key_values,
                max_new_tokens=3,
                do_sample=False,
            )
    assert found.tolist() == expected.tolist()
    plain, _ = rows_of(model, inputs, "language")
    torch.testing.assert_close(rows.language, plain.language, rtol=0, atol=0)


def test_only_the_read_logits_are_promised_and_they_are_right(pair):
    model, processor = pair
    inputs = inputs_for(processor, QUESTIONS)
    expected = model(**inputs, output_hidden_states=True)
    with record(model):
        kept = model(**inputs, logits_to_keep=2).logits
        hidden = model(**inputs, logits_to_keep=2, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(kept, expected.logits[:, -2:], rtol=1e-4, atol=1e-5)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(hidden[real], expected.hidden_states[-1][real], rtol=1e-4, atol=1e-5)


def test_refusals_name_what_is_wrong(built):
    model, processor = built["gemma-clip"]
    inputs = inputs_for(processor, QUESTIONS[:1])
    with pytest.raises(RelevancyError, match="Nothing was recorded"), record(model) as tape:
        tape.relevance(torch.zeros(1, requires_grad=True))
    with pytest.raises(RelevancyError, match="without a filled cache"), record(model):
        cache = model(**inputs, use_cache=True).past_key_values
        model(input_ids=inputs["input_ids"][:, -3:], past_key_values=cache)
    with pytest.raises(RelevancyError, match="inference_mode"), torch.inference_mode(), record(model):
        pass
    with pytest.raises(RelevancyError, match="vision tower"), record(model.get_decoder(), "full"):
        pass
    with pytest.raises(RelevancyError, match="needs a picture"), record(model, "full") as tape:
        logits = model(input_ids=torch.tensor([[2, 300, 301]])).logits
        tape.relevance(logits[:, -1].max(-1).values)


def test_weights_made_in_inference_mode_are_refused_with_what_to_do():
    with torch.inference_mode():
        model = tiny.gemma_clip()[0].to(torch.bfloat16).float()
    with pytest.raises(RelevancyError, match="outside it"), record(model):
        pass


def test_a_target_that_depends_on_nothing_recorded_is_refused(built):
    model, processor = built["gemma-clip"]
    inputs = inputs_for(processor, QUESTIONS[:1])
    for target in (torch.zeros(1), torch.zeros(1, requires_grad=True)):
        with pytest.raises(RelevancyError, match="does not depend"), record(model) as tape:
            model(**inputs)
            tape.relevance(target)


def test_a_text_model_without_a_tower(built):
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    config = tiny.text(tiny.LlamaConfig, 60)
    model = LlamaForCausalLM(config).eval()
    ids = torch.tensor([[2, 5, 9, 11, 30]])
    with record(model) as tape:
        rows = tape.relevance(model(input_ids=ids).logits[:, -1].max(-1).values)
    assert rows.language.shape == (1, 5)
    assert rows.language[0, -1] >= 1


def test_an_attention_without_the_interface_is_refused():
    from transformers import ViltConfig, ViltModel

    model = ViltModel(
        ViltConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    )
    with pytest.raises(RelevancyError, match="interface"), record(model):
        pass
