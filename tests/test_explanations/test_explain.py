"""`explain` end to end on tiny models: its rows against the equations, its answers against `generate`."""

import threading
from io import BytesIO

import numpy as np
import pytest
import tiny
import torch
from observers import State
from PIL import Image
from reference import reference

import relevancy
from relevancy.core.tape import record
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.explanations.map_batch import shares
from relevancy.models.model import Model, wrap

QUESTIONS = ["Is the duck floating? (a) Yes (b) No", "What color is the ball?", "red"]
NEW = 6


@pytest.fixture
def model(pair: tiny.Built) -> Model:
    """Each tiny model in turn, as users hold it."""
    return wrap(*pair, name="tiny")


@pytest.fixture
def gemma(built: dict[str, tiny.Built]) -> Model:
    """The one that stands for all where the family does not matter."""
    return wrap(*built["gemma-clip"], name="tiny")


def close(found: np.ndarray, expected, bound: float = 1e-5) -> bool:
    found, expected = (torch.as_tensor(value).detach().double().numpy() for value in (found, expected))
    return found.shape == expected.shape and np.linalg.norm(found - expected) <= bound * np.linalg.norm(expected)


def generated(model: Model, picture: Image.Image, question: str, length: int = NEW) -> list[int]:
    """The answer as transformers gives it, up to the stop token."""
    inputs = model.prepare([picture], [question])
    stops = list(model.stop_token_ids)
    ids = model.model.generate(**inputs, max_new_tokens=length, do_sample=False, eos_token_id=stops)
    answer = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return answer[:-1] if answer[-1] in stops else answer


def text(model: Model, ids: list[int]) -> str:
    return model.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()


@pytest.mark.parametrize("scope", ["language", "full"])
def test_result_is_the_row_of_the_equations_without_its_own_unit(model, picture, scope):
    result = explain(model, picture, QUESTIONS[0], scope=scope, max_new_tokens=NEW)
    inputs = model.prepare([picture], QUESTIONS[:1])
    expected = reference(model.model, inputs, full=True)
    row = expected.language[0].clone()
    row[-1] -= 1
    assert close(result.relevance, row)
    is_image = (inputs["input_ids"][0] == model.image_token_id).numpy()
    assert result.is_image.tolist() == is_image.tolist()
    patches = expected.vision[0, 1:] if scope == "full" else row[is_image]
    assert result.image_map.shape == (4, 4)
    assert close(result.image_map.ravel(), patches)
    assert result.relevance.dtype == result.image_map.dtype == np.float32
    assert result.tokens == tuple(model.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist()))

    best = int(expected.logits[0].argmax())
    target = result.target
    assert (target.id, target.position) == (best, 0)
    assert target.logit == pytest.approx(float(expected.logits[0, best]), rel=1e-4)
    assert target.probability == pytest.approx(float(expected.logits[0].softmax(-1)[best]), rel=1e-4)
    assert (result.scope, result.method, result.model, result.question) == (scope, "relevancy", "tiny", QUESTIONS[0])
    assert not result.empty


def test_answer_is_what_generate_gives(model, picture):
    for question in QUESTIONS:
        result = explain(model, picture, question, max_new_tokens=NEW)
        ids = generated(model, picture, question)
        assert result.answer == text(model, ids)
        assert result.answer_tokens == tuple(model.tokenizer.convert_ids_to_tokens(ids))
    assert explain(model, picture, QUESTIONS[0], max_new_tokens=1).answer == text(
        model, generated(model, picture, QUESTIONS[0], 1)
    )


def test_answer_ends_at_the_stop_token(built, picture, monkeypatch):
    llama = wrap(*built["llama-clip"])
    whole = generated(llama, picture, QUESTIONS[0])
    place = next(index for index in range(1, len(whole)) if whole[index] not in whole[:index])
    monkeypatch.setitem(vars(llama), "stop_token_ids", (whole[place],))
    assert explain(llama, picture, QUESTIONS[0], max_new_tokens=NEW).answer == text(llama, whole[:place])
    every = explain(llama, picture, QUESTIONS[0], target="all", max_new_tokens=NEW)
    assert [result.target.id for result in every] == whole[:place]


def test_a_model_that_says_nothing_is_explained_and_said_so(gemma, picture, monkeypatch):
    first = generated(gemma, picture, QUESTIONS[0], 1)
    monkeypatch.setitem(vars(gemma), "stop_token_ids", (first[0],))
    result = explain(gemma, picture, QUESTIONS[0], max_new_tokens=NEW)
    assert result.answer == ""
    assert result.target.id == first[0]
    assert any("ended its answer at once" in note for note in result.notes)
    with pytest.raises(RelevancyError, match="answer is empty"):
        explain(gemma, picture, QUESTIONS[0], target="all", max_new_tokens=NEW)


def same(one: relevancy.Explanation, other: relevancy.Explanation, bound: float = 1e-5) -> None:
    assert one.tokens == other.tokens
    assert one.answer == other.answer
    assert (one.target.id, one.target.position) == (other.target.id, other.target.position)
    assert one.target.logit == pytest.approx(other.target.logit, rel=1e-4, abs=1e-5)
    assert close(one.relevance, other.relevance, bound)
    assert close(one.image_map, other.image_map, bound)
    assert one.notes == other.notes
    assert one.image.tobytes() == other.image.tobytes()


@pytest.mark.parametrize("target", ["first", "all", -1])
def test_a_batch_equals_one_by_one(model, target):
    pictures = [tiny.picture(80, 60, seed=1), tiny.picture(50, 90, seed=2), tiny.picture(64, 64, seed=3)]
    together = explain(model, pictures, QUESTIONS, target=target, scope="full", max_new_tokens=3)
    assert len(together) == 3
    for picture, question, found in zip(pictures, QUESTIONS, together, strict=True):
        alone = explain(model, picture, question, target=target, scope="full", max_new_tokens=3)
        found, alone = (value if isinstance(value, list) else [value] for value in (found, alone))
        assert len(found) == len(alone)
        for one, other in zip(found, alone, strict=True):
            same(one, other, 3e-5)


def test_one_picture_with_many_questions_and_one_question_about_many(gemma, picture):
    about_one = explain(gemma, picture, QUESTIONS, max_new_tokens=2)
    assert [result.question for result in about_one] == QUESTIONS
    same(about_one[2], explain(gemma, picture, QUESTIONS[2], max_new_tokens=2), 3e-5)
    about_many = explain(gemma, [picture, tiny.picture(seed=4)], QUESTIONS[0], max_new_tokens=2)
    assert about_many[1].image.tobytes() == tiny.picture(seed=4).tobytes()
    same(about_many[0], explain(gemma, picture, QUESTIONS[0], max_new_tokens=2), 3e-5)
    (listed,) = explain(gemma, [picture], [QUESTIONS[0]], max_new_tokens=2)
    same(listed, about_many[0], 3e-5)


@pytest.mark.parametrize("scope", ["language", "full"])
def test_all_equals_each_position_alone(model, picture, scope):
    every = explain(model, picture, QUESTIONS[0], target="all", scope=scope, max_new_tokens=4)
    answer = generated(model, picture, QUESTIONS[0], 4)
    assert [result.target.id for result in every] == answer
    prompt = len(model.prepare([picture], QUESTIONS[:1])["input_ids"][0])
    for position, result in enumerate(every):
        assert len(result.relevance) == prompt + position  # an answer's earlier tokens take part, later ones do not
        same(result, explain(model, picture, QUESTIONS[0], target=position, scope=scope, max_new_tokens=4))
        inputs = model.prepare([picture], QUESTIONS[:1], [answer[:position]])
        expected = reference(model.model, inputs, torch.tensor([answer[position]]), full=scope == "full")
        row = expected.language[0].clone()
        row[-1] -= 1
        assert close(result.relevance, row)
        if scope == "full":
            assert close(result.image_map.ravel(), expected.vision[0, 1:])


@pytest.mark.parametrize("method", ["relevancy", "relevancy-magnitude"])
def test_against_the_next_best_is_the_row_that_the_equations_give_for_the_difference(picture, method):
    hf, processor = tiny.gemma_clip()
    exact = wrap(hf.double(), processor)
    result = explain(exact, picture, QUESTIONS[0], target="contrast", method=method, max_new_tokens=3)
    target = result.target
    inputs = exact.prepare([picture], QUESTIONS[:1], [generated(exact, picture, QUESTIONS[0], 3)[: target.position]])
    with torch.no_grad():
        first, second = exact.model(**inputs).logits[0, -1].topk(2).indices
    assert (target.id, target.contrast_id) == (int(first), int(second))
    rule = "clamp" if method == "relevancy" else "magnitude"
    row = reference(exact.model, inputs, first[None], against=second[None], rule=rule).language[0].clone()
    row[-1] -= 1
    assert close(result.relevance, row)
    assert f"rather than {target.contrast.strip()!r}" in result.summary()
    typed = explain(exact, picture, QUESTIONS[0], target=target.position, method=method, max_new_tokens=3)
    assert not close(typed.relevance, row, 1e-2)


def test_contrast_is_the_row_of_the_difference(gemma, picture):
    result = explain(gemma, picture, QUESTIONS[0], target="Yes|No", max_new_tokens=3)
    target = result.target
    inputs = gemma.prepare([picture], QUESTIONS[:1], [generated(gemma, picture, QUESTIONS[0], 3)[: target.position]])
    with record(gemma.model) as tape:
        logits = gemma.model(**inputs, logits_to_keep=1).logits[:, -1]
        row = tape.relevance(logits[:, target.id] - logits[:, target.contrast_id]).language[0]
    row[-1] -= 1
    assert close(result.relevance, row)
    assert target.contrast.strip() == "No"
    assert target.logit - target.contrast_logit == pytest.approx(
        float((logits[0, target.id] - logits[0, target.contrast_id]).detach()), rel=1e-4
    )
    other = explain(gemma, picture, QUESTIONS[0], target="No|Yes", max_new_tokens=3)
    assert not close(other.relevance, row, 1e-2)


def test_a_given_answer_is_explained_instead_of_the_models_own(gemma, picture):
    ids = gemma.tokenizer.encode("No boats", add_special_tokens=False)
    results = explain(gemma, picture, QUESTIONS[0], target="all", answer=" No boats ")
    assert [result.target.id for result in results] == ids
    assert {result.answer for result in results} == {"No boats"}
    inputs = gemma.prepare([picture], QUESTIONS[:1], [ids[:1]])
    expected = reference(gemma.model, inputs, torch.tensor([ids[1]])).language[0]
    expected[-1] -= 1
    assert close(results[1].relevance, expected)
    several = explain(gemma, picture, QUESTIONS[:2], answer=["No", "Yes"])
    assert [result.answer for result in several] == ["No", "Yes"]
    same(explain(gemma, picture, QUESTIONS[0], answer="No"), several[0], 3e-5)


def test_layers_are_the_decoder_layers_that_take_part(gemma, picture):
    some = explain(gemma, picture, QUESTIONS[0], layers=[0, 2], max_new_tokens=2)
    inputs = gemma.prepare([picture], QUESTIONS[:1])
    with record(gemma.model, layers=[0, 2]) as tape:
        row = tape.relevance(gemma.model(**inputs, logits_to_keep=1).logits[:, -1].max(-1).values).language[0]
    row[-1] -= 1
    assert close(some.relevance, row)
    assert some.layers == (0, 2)
    whole = explain(gemma, picture, QUESTIONS[0], max_new_tokens=2)
    assert whole.layers is None
    assert not close(whole.relevance, some.relevance, 1e-2)
    assert whole.answer == some.answer
    once = explain(gemma, [picture, picture], QUESTIONS[0], layers=iter([0, 2]), max_new_tokens=2)
    same(once[1], some)


def test_shares_are_disjoint_and_sum_to_one(model, picture):
    result = explain(model, picture, QUESTIONS[0], max_new_tokens=2)
    row, image = result.relevance.astype(np.float64), result.is_image
    assert result.shares["image"] == pytest.approx(row[image].sum() / row.sum())
    assert result.shares["first_token"] == pytest.approx(row[0] / row.sum())
    assert result.shares["text"] == pytest.approx(row[1:][~image[1:]].sum() / row.sum())
    assert sum(result.shares.values()) == pytest.approx(1)
    assert list(result.shares) == ["image", "text", "first_token"]


def test_shares_of_special_rows():
    image = np.array([True, False, False])
    assert shares(np.array([1.0, 3.0, 0.0]), image) == {"image": 0.25, "text": 0.75, "first_token": 0.0}
    nothing = {"image": 0.0, "text": 0.0, "first_token": 0.0}
    assert shares(np.zeros(3), image) == nothing
    assert shares(np.array([1.0, np.nan, 0.0]), image) == nothing


def test_control_tokens_in_a_question_are_words_and_said_so(gemma, picture):
    result = explain(gemma, picture, "Is <image> a <end_of_turn> duck?", max_new_tokens=2)
    assert result.is_image.sum() == 16
    assert result.tokens.count("<end_of_turn>") == 1
    assert {token for note in result.notes for token in ("<image>", "<end_of_turn>") if f'"{token}"' in note} == {
        "<image>",
        "<end_of_turn>",
    }


def test_what_was_done_to_a_picture_is_said(gemma):
    turned = tiny.picture(60, 90)
    exif = turned.getexif()
    exif[0x0112] = 6
    buffer = BytesIO()
    turned.save(buffer, "JPEG", exif=exif)
    result = explain(gemma, buffer.getvalue(), QUESTIONS[0], max_new_tokens=2)
    assert result.image.size == (90, 60)
    assert result.heatmap().shape == (60, 90)
    assert any("EXIF" in note for note in result.notes)
    clear = tiny.picture().convert("RGBA")
    clear.putalpha(100)
    assert any("transparency" in note for note in explain(gemma, clear, QUESTIONS[0], max_new_tokens=2).notes)


def test_weights_that_are_not_numbers_give_no_map(picture):
    broken = wrap(*tiny.gemma_clip())
    with torch.no_grad():
        broken.model.get_decoder().layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    result = explain(broken, picture, QUESTIONS[0], max_new_tokens=2)
    assert result.empty
    assert result.evidence is None
    _, note = result.notes  # of the picture's edges; and not that the relevance is on the words instead
    assert "not a number" in note
    assert set(result.shares.values()) == {0.0}
    assert result.overlay().size == picture.size


def test_a_row_of_zeros_gives_no_map(picture):
    silent, processor = tiny.gemma_clip()
    with torch.no_grad():
        for layer in silent.get_decoder().layers:
            layer.self_attn.o_proj.weight.zero_()  # nothing that attention says arrives
    result = explain(wrap(silent, processor), picture, QUESTIONS[0], max_new_tokens=2)
    assert result.empty
    assert not result.relevance.any()
    assert any("zero everywhere" in note for note in result.notes)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_given_back_unchanged(model, picture, fails):
    hf = model.model
    explain(model, picture, QUESTIONS[0], max_new_tokens=2)  # transformers adds hooks on the first forward
    parameters = list(hf.parameters())
    parameters[0].requires_grad_(False)
    parameters[2].grad = torch.ones_like(parameters[2])
    hf.train()
    settings = hf.generation_config.to_dict()
    before = State(hf)
    try:
        if fails:
            with pytest.raises(RelevancyError, match="does not contain"):
                explain(model, picture, QUESTIONS[0], target="水水水", scope="full", max_new_tokens=2)
            with pytest.raises(RelevancyError, match="layers"):
                explain(model, picture, QUESTIONS[0], layers=[99], scope="full", max_new_tokens=2)
        else:
            explain(model, picture, QUESTIONS[0], target="all", scope="full", max_new_tokens=2)
        assert vars(State(hf)) == vars(before)
        assert hf.generation_config.to_dict() == settings
    finally:
        parameters[0].requires_grad_(True)
        parameters[2].grad = None
        hf.eval()


def test_two_threads_on_one_model_get_what_each_gets_alone(gemma, picture):
    expected = {question: explain(gemma, picture, question, target="all", max_new_tokens=3) for question in QUESTIONS}
    found: dict[str, list] = {}

    def ask(question: str) -> None:
        for _ in range(2):
            found[question] = explain(gemma, picture, question, target="all", max_new_tokens=3)

    threads = [threading.Thread(target=ask, args=(question,)) for question in QUESTIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for question in QUESTIONS:
        for one, other in zip(found[question], expected[question], strict=True):
            same(one, other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "guess"}, "Unknown method 'guess'; there is relevancy"),
        ({"scope": "vision"}, "Unknown scope 'vision'; choose from language, full"),
        ({"question": "  "}, "question is empty"),
        ({"target": ""}, "target is empty"),
        ({"target": 77}, "there is no 77"),
        ({"answer": " "}, "given answer is empty"),
        ({"layers": [3]}, "0 to 2"),
        ({"layers": [1.5]}, r"whole numbers such as .* not \[1.5\]"),
        ({"layers": [True]}, "whole numbers"),
        ({"layers": ["a"]}, "whole numbers"),
        ({"layers": "0-2"}, "whole numbers"),
        ({"layers": 1}, "whole numbers"),
        ({"question": None}, "must be text, not NoneType"),
        ({"question": 7}, "must be text, not int"),
        ({"question": b"Where?"}, "must be text, not bytes"),
        ({"question": [{"role": "user", "content": "Where?"}]}, "0 places for pictures .* and 1 were given"),
        ({"answer": 7}, "answer must be text, not int"),
        ({"answer": ["Yes", None], "question": QUESTIONS[:2]}, "one for each question, or none"),
        ({"answer": "<image>"}, "control token <image>: leave it out"),
        ({"answer": "Yes<end_of_turn>"}, "control token <end_of_turn>"),
        ({"answer": "Yes <eos>", "target": "all"}, "control token <eos>"),
        ({"image": "nowhere.png"}, "no such file"),
        ({"question": ["a", "b"], "image": ["nowhere.png"] * 3}, "equal length, not 2 and 3"),
        ({"question": []}, "list is empty"),
        ({"question": "quack " * 2000}, "too long"),
        ({"max_new_tokens": 0}, "whole number, 1 or more, not 0"),
        ({"max_new_tokens": True}, "1 or more, not True"),
        ({"max_new_tokens": 2.5}, "1 or more, not 2.5"),
        ({"max_new_tokens": "5"}, "1 or more, not '5'"),
        ({"max_new_tokens": None}, "1 or more, not None"),
        ({"answer": "quack " * 2000}, "the answer is too long: .* shorten it by"),
        ({"answer": "quack " * 2000, "target": -1}, "the answer is too long"),
        ({"answer": "a\udcff"}, "the answer is not valid text: give it in UTF-8"),
        ({"model": None}, r"relevancy.wrap\(model, processor\) gives, not NoneType"),
        ({"model": torch.nn.Linear(1, 1)}, "not Linear"),
        ({"max_pixels": None}, "max_pixels is a number of pixels, 1 or more, not None"),
        ({"max_pixels": "x"}, "1 or more, not 'x'"),
        ({"max_pixels": 0}, "1 or more, not 0"),
        ({"target": "a|b|c"}, r"more than two words: .* word:a\|b\|c"),
        ({"model": "nonsense"}, "demo-small, demo-large, demo-gemma, 2b, 7b"),
    ],
)
def test_wrong_input_is_one_line(gemma, picture, changes, said):
    asked = {"model": gemma, "image": picture, "question": QUESTIONS[0], "max_new_tokens": 2} | changes
    with pytest.raises(RelevancyError, match=said) as caught:
        explain(asked.pop("model"), asked.pop("image"), asked.pop("question"), **asked)
    assert "\n" not in str(caught.value)


def test_layers_may_be_whole_numbers_of_any_kind(gemma, picture):
    plain = explain(gemma, picture, QUESTIONS[0], layers=[0, 2], max_new_tokens=2)
    for layers in (np.array([0, 2]), torch.tensor([0, 2]), range(0, 3, 2), iter([0, -1])):
        found = explain(gemma, picture, QUESTIONS[0], layers=layers, max_new_tokens=2)
        assert np.array_equal(found.relevance, plain.relevance)
        assert all(type(layer) is int for layer in found.layers)


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    ],
)
def test_out_of_memory_says_what_to_lower(gemma, picture, monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(gemma.model.get_decoder(), "forward", fail)
    with pytest.raises(RelevancyError, match="bfloat16"):
        explain(gemma, picture, QUESTIONS[0])


def test_other_failures_keep_their_own_words(gemma, picture, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(gemma.model.get_decoder(), "forward", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        explain(gemma, picture, QUESTIONS[0])


def test_an_answer_ends_where_the_model_has_no_more_positions(built):
    model = relevancy.wrap(*built["gemma-clip"], name="tiny")
    short = relevancy.explain(model, tiny.picture(), "red?", max_new_tokens=10**9)
    assert len(short.tokens) < model.room
    assert len(model.tokenizer.encode(short.answer, add_special_tokens=False)) <= model.room


@pytest.mark.parametrize("family", ["gemma-clip", "paligemma"])
def test_an_answer_is_not_cut_short_by_a_longer_question_beside_it(family):
    """Nor is a row whose place has run out told of positions that the model does not have."""
    questions = ["What color?", "Where is the dog? The dog stands left of the tree, on the grass. " * 2]
    hf_model, processor = tiny.FAMILIES[family]()
    model = wrap(hf_model, processor, name="tiny")
    longest = int(model.prepare([tiny.picture()], questions[1:])["attention_mask"].sum())
    hf_model.config.get_text_config().max_position_embeddings = longest + 2
    positions = []
    model.model.get_decoder().register_forward_pre_hook(
        lambda _, args, named: positions.append(named.get("position_ids")), with_kwargs=True
    )
    both = explain(model, tiny.picture(), questions, max_new_tokens=8, evidence=False)
    told = [int(own.max()) for own in positions if own is not None]
    alone = [explain(model, tiny.picture(), question, max_new_tokens=8, evidence=False) for question in questions]
    assert [result.answer_tokens for result in both] == [result.answer_tokens for result in alone]
    assert [len(result.answer_tokens) for result in both] == [8, 2]
    assert max(told) < model.room + (family == "paligemma")
