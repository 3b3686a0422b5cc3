"""Whether an estimate is what it should be, within its error."""

SIGMAS = 4


def assert_is(estimate, expected, most):
    """Within four standard errors, and these no larger than `most`, or the test could not fail."""
    assert 0 < estimate.error < most, f"the test is blunt: {estimate.error} is larger than {most}"
    assert abs(estimate.value - expected) < SIGMAS * estimate.error, f"{estimate} is not {expected}"
