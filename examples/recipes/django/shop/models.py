from django.db import models


class Order(models.Model):
    total = models.DecimalField(max_digits=12, decimal_places=2)
    total_cents = models.BigIntegerField(editable=False)  # null=True until 0003

    class Meta:
        db_table = "orders"
