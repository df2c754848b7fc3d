"""captum's methods against differences of forward passes, sums that must hold, and games worked by hand."""

from types import SimpleNamespace
from typing import ClassVar

import bare as families
import numpy as np
import pytest
import torch
from by_hand import ByHand

from relevancy.core.targets import Choice
from relevancy.explanations.explain import explain
from relevancy.families.views import one_grid, stretched
from relevancy.methods import perturbation
from relevancy.methods.base import MethodSettings, opened
from relevancy.methods.perturbation import Subject
from relevancy.methods.registry import METHODS
from relevancy.models.model import Model, wrap
from relevancy.models.prepared import Prepared

pytest.importorskip("captum")
QUESTION = "Is the duck floating? (a) Yes (b) No"


@pytest.fixture
def gemma(built) -> Model:
    return wrap(*built["gemma-clip"], name="tiny")


@pytest.fixture
def case(gemma, picture):
    return ByHand(gemma, picture, QUESTION)


def test_ablation_is_the_difference_of_two_forward_passes(gemma, case, picture):
    found = explain(gemma, picture, QUESTION, method="ablation", max_new_tokens=1)
    whole = case.without([])
    for patch in (0, 5, 15):
        assert found.image_map.ravel()[patch] == pytest.approx(whole - case.without([patch]), abs=2e-5)
    full = explain(gemma, picture, QUESTION, method="ablation", scope="full", max_new_tokens=1)
    pixels = case.inputs["pixel_values"].clone()
    pixels[..., 14:28, 42:56] = 0
    with torch.no_grad():
        hidden = float(case.score(case.embed(pixels)))
    assert full.image_map[1, 3] == pytest.approx(whole - hidden, abs=2e-5)


def test_ablation_against_a_contrast_is_that_of_the_difference(gemma, picture):
    found = explain(gemma, picture, QUESTION, method="ablation", target="Yes|No", answer="Yes")
    case = ByHand(gemma, picture, QUESTION)
    yes, no = found.target.id, found.target.contrast_id
    lost = [case.without([], token) - case.without([6], token) for token in (yes, no)]
    assert found.image_map.ravel()[6] == pytest.approx(lost[0] - lost[1], abs=4e-5)


def test_occlusion_is_the_mean_over_the_windows_of_a_patch(gemma, case, picture):
    found = explain(gemma, picture, QUESTION, method="occlusion", max_new_tokens=1)
    whole = case.without([])

    def window(row: int, col: int) -> float:
        return (whole - case.without([4 * row + col, 4 * row + col + 1, 4 * row + col + 4, 4 * row + col + 5])) / 4

    assert found.image_map[0, 0] == pytest.approx(window(0, 0), abs=2e-5)
    of_one = [window(row, col) for row in (0, 1) for col in (1, 2)]
    assert found.image_map[1, 2] == pytest.approx(np.mean(of_one), abs=2e-5)


@pytest.mark.parametrize(("method", "bound"), [("integrated-gradients", 1e-3), ("shapley", 1e-4)])
def test_the_map_sums_to_the_difference_the_picture_makes(gemma, case, picture, method, bound):
    found = explain(gemma, picture, QUESTION, method=method, max_new_tokens=1)
    assert float(found.image_map.sum()) == pytest.approx(case.without([]) - case.without(list(range(16))), abs=bound)
    assert method == "shapley" or any("convergence delta is" in note for note in found.notes)


class Game(Subject):
    """A number that is not a model's: each patch of the picture (1, 1, rows, cols) counts by its own weight."""

    def score(self, pictures: torch.Tensor) -> torch.Tensor:
        return (pictures * self.weights).sum((1, 2, 3)) + 3

    @property
    def weights(self) -> torch.Tensor:
        return torch.arange(self.picture.numel(), dtype=torch.float32).view_as(self.picture) - 4


def game(rows: int, cols: int) -> tuple[Game, MethodSettings]:
    picture = torch.full((1, 1, rows, cols), 2.0)
    nothing = torch.zeros_like(picture)
    return Game(None, Choice(0, 0), {}, picture, nothing, None), MethodSettings("full", None, rows, cols)


@pytest.mark.parametrize("name", ["_integrated_gradients", "_ablation", "_shapley", "_kernel_shap"])
def test_what_every_patch_adds_by_itself_is_found_exactly(name):
    if name == "_kernel_shap":
        pytest.importorskip("sklearn")
    subject, setting = game(3, 4)
    found, _ = getattr(perturbation, name)(subject, setting)
    torch.testing.assert_close(found, 2 * subject.weights[0, 0], rtol=1e-3, atol=1e-2)


def test_occlusion_of_patches_that_add_up():
    subject, setting = game(3, 3)
    found, _ = perturbation._occlusion(subject, setting)
    lost = 2 * torch.nn.functional.avg_pool2d(subject.weights, 2, 1)[0, 0]
    expected = [lost[0, 0], lost[0].mean(), lost[0, 1], lost[:, 0].mean(), lost.mean(), lost[:, 1].mean()]
    torch.testing.assert_close(found.flatten()[:6], torch.stack(expected))


def test_lime_finds_the_patches_that_count():
    pytest.importorskip("sklearn")
    subject, setting = game(2, 4)
    torch.manual_seed(0)
    found, _ = perturbation._lime(subject, setting)
    assert torch.equal(found.flatten().argsort(), torch.arange(8))
    np.testing.assert_allclose(found, 2 * subject.weights[0, 0], atol=0.3)


def test_patches_of_a_group_share_what_it_adds(monkeypatch):
    monkeypatch.setattr(perturbation, "GROUPS", 2)
    subject, setting = game(3, 4)
    found, _ = perturbation._ablation(subject, setting)
    added = 2 * subject.weights[0, 0]
    blocks = ((slice(0, 2), slice(0, 2)), (slice(0, 2), slice(2, 4)), (slice(2, 3), slice(0, 2)))
    for rows, cols in blocks:
        assert torch.allclose(found[rows, cols], added[rows, cols].mean())


@pytest.mark.parametrize("family", [families.llava_siglip, families.llava_qwen2, families.paligemma])
def test_what_is_run_again_is_the_same_model(family):
    """Without pixels, on embeddings that were read before: masks and head must be those of the whole model."""
    hf, inputs = family()
    inputs["attention_mask"] = inputs["attention_mask"].clone()
    holder = Model(hf, SimpleNamespace(tokenizer=None), "tiny")
    layout = one_grid(stretched(2, 2, np.linspace(0, 1, 3), np.linspace(0, 1, 3)))
    prepared = Prepared(inputs, holder.image_token_id, ((layout,),) * len(inputs["input_ids"]))
    with opened(METHODS["ablation"], holder, MethodSettings("language", None, 2, 2)) as reader:
        logits = reader.forward(prepared, 1, use_cache=False).logits[0, -1]
        subject = reader.subject(0, Choice(0, 5, 6), -1)
        again = subject.score(subject.picture.repeat(2, 1, 1, 1))
        changed = subject.score(subject.hidden)
    torch.testing.assert_close(again, (logits[5] - logits[6]).expand(2), rtol=1e-4, atol=1e-5)
    assert abs(float(changed - again[0])) > 1e-3


def test_random_methods_give_the_same_map_twice_and_leave_the_generator_alone(gemma, picture, monkeypatch):
    monkeypatch.setattr(perturbation, "ORDERS", 1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = explain(gemma, picture, QUESTION, method="shapley", max_new_tokens=1)
    assert torch.equal(torch.rand(3), expected)
    other = explain(gemma, picture, QUESTION, method="shapley", max_new_tokens=1)
    assert np.array_equal(one.image_map, other.image_map)


def test_a_side_that_patches_do_not_divide_keeps_its_patches():
    subject = Subject(None, Choice(0, 0), {}, torch.zeros(1, 3, 11, 11), torch.zeros(1, 3, 11, 11), None)
    setting = MethodSettings("full", None, 2, 2)
    mask, sizes = subject.groups(setting)
    assert torch.equal(subject.by_patch(mask, setting), torch.tensor([[0, 1], [2, 3]]))
    assert int(mask[0, 0, 10, 10]) == 3
    assert sizes.tolist() == [[1, 1], [1, 1]]


class Counted(Game):
    """Counts the pictures it is asked about."""

    asked: ClassVar[list[int]] = []

    def score(self, pictures: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(pictures))
        return super().score(pictures)


@pytest.mark.parametrize("method", [one for one in METHODS.values() if one.needs], ids=lambda one: one.name)
def test_the_cost_in_the_list_is_what_a_picture_of_many_patches_costs(method):
    if method.missing:
        pytest.skip("scikit-learn")
    small, setting = game(24, 24)
    subject = Counted(**{name: value for name, value in vars(small).items() if name != "places"})
    subject.asked.clear()
    getattr(perturbation, "_" + method.name.replace("-", "_"))(subject, setting)
    beside = 2  # the unchanged prompt, and the picture of one color
    assert sum(subject.asked) + beside == method.cost.forward
