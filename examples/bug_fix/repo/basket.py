"""What a basket costs."""


def total_cents(prices_cents: list[int], discount_percent: int = 0) -> int:
    """The sum of the prices, less the discount; rounded down."""
    return sum(prices_cents) * discount_percent // 100
