"""The tiny random models that most tests of families take."""

import pictured
import pytest

from relevancy.models.model import Model


@pytest.fixture(params=pictured.BUILDERS)
def model(request: pytest.FixtureRequest) -> Model:
    return pictured.model_of(request.param)
