"""Seeds of runs that belong together."""

import numpy as np


def seed_of(seed: int, *which: int) -> int:
    """A seed for one of several runs that share nothing with those of another `seed`, not of the next one either."""
    return int(np.random.SeedSequence([seed, *which]).generate_state(1)[0] >> 1)
