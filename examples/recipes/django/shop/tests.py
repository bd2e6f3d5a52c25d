from django.test import TestCase

from .models import Order


class OrderTest(TestCase):
    def test_total_cents_follows_total(self):
        order = Order.objects.create(total="7.25")
        order.refresh_from_db()
        self.assertEqual(order.total_cents, 725)
