"""Where tests keep what is to be looked at: screens, pages, executed notebooks."""

import os
from pathlib import Path

KEPT = Path(os.environ.get("RELEVANCY_ARTIFACTS", Path(__file__).parent.parent / "artifacts"))
