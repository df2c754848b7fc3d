"""What a type checker makes of the front door; `make lint` reads this file, and nothing runs it."""

from PIL import Image
from typing_extensions import assert_type

import relevancy
from relevancy.explanations.counterfactual import Counterfactual

model = relevancy.load("demo-small")
image, region = Image.new("RGB", (2, 2)), relevancy.Region()

assert_type(relevancy.explain(model, image, "q"), relevancy.Explanation)
assert_type(relevancy.explain(model, image, "q", target=2, answer="No", scope="full"), relevancy.Explanation)
assert_type(relevancy.explain(model, "f.png", "q", target="all"), list[relevancy.Explanation])
assert_type(relevancy.explain(model, [image, image], "q"), list[relevancy.Explanation])
assert_type(relevancy.explain(model, image, ["q", "r"], layers=[1]), list[relevancy.Explanation])
assert_type(relevancy.explain(model, image, "q", answer=["a", "b"]), list[relevancy.Explanation])
assert_type(relevancy.explain(model, [image], ["q"], target="all"), list[list[relevancy.Explanation]])
assert_type(relevancy.counterfactual(model, image, "q", region), Counterfactual)
assert_type(relevancy.counterfactual(model, image, "q", [region]), list[Counterfactual])
assert_type(relevancy.compare([model, model], image, "q").explanations, tuple[relevancy.Explanation, ...])
relevancy.explain(model, image, "q", layer=[1])  # type: ignore[call-overload]
relevancy.compare([model, model], image, "q", taget="first")  # type: ignore[call-arg]
