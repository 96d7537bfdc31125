import re

import pytest

from healnet.fusion import check_output


@pytest.mark.parametrize(
    ("output", "out_dim"),
    [("cox", 1), ("value", 1), ("classes", 2), ("discrete", 1), ("discrete", 4), (None, 7), ("cox", None)],
)
def test_what_fits(output, out_dim):
    check_output(output, out_dim)


@pytest.mark.parametrize(
    ("output", "out_dim", "message"),
    [
        (
            "risk",
            None,
            "expected output to be one of ('cox', 'discrete', 'classes', 'value') or None, got 'risk'",
        ),
        ("cox", 2, "expected out_dim=1 with output='cox', got 2"),
        ("value", 3, "expected out_dim=1 with output='value', got 3"),
        ("classes", 1, "expected out_dim of at least 2 with output='classes', got 1"),
    ],
)
def test_what_does_not_fit_is_refused(output, out_dim, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_output(output, out_dim)
