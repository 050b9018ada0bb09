"""What the API shows of what is stored."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from adjourn.completion.quarantine import Quarantined
from adjourn.http.views import QuarantineView, usd


@given(st.integers(0, 10**18))
def test_money_is_exact(nanousd: int) -> None:
    """Nano-USD become decimal USD without exponent, without rounding, without zeros at the end."""
    text = usd(nanousd)
    assert Decimal(text) * 10**9 == nanousd
    assert "E" not in text.upper()
    assert "." not in text or text[-1] != "0"


@given(st.binary())
def test_a_refused_body_is_shown_whole(body: bytes) -> None:
    """As text where it is text, as bytes where it is not."""
    entry = Quarantined("qrn_1", "t", 0, "c", "", "m", "http", "held", body)
    view = QuarantineView.of(entry)
    shown = view.body_base64 if view.body is None else view.body.encode()
    assert shown == body
    assert view.size_bytes == len(body)
