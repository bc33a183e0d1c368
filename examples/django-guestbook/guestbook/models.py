from django.db import models


class Entry(models.Model):
    name = models.CharField(max_length=60)
    text = models.TextField(max_length=500)
    written_at = models.DateTimeField(auto_now_add=True)
    # What the worker has found out; nothing before that.
    words = models.PositiveIntegerField(null=True)

    class Meta:
        ordering = ["-written_at"]
