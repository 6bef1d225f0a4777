"""For pytest: hypothesis stops at the first example that fails; nobody reads how small it can be made."""

from __future__ import annotations

import hypothesis

NAME = "first-failure"
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
hypothesis.settings.register_profile(NAME, deadline=None, derandomize=True, database=None, phases=PHASES)
