import unittest

from basket import total_cents


class TestTotal(unittest.TestCase):
    def test_without_discount(self) -> None:
        assert total_cents([1000, 250]) == 1250

    def test_with_discount(self) -> None:
        assert total_cents([1000, 250], discount_percent=20) == 1000
