import time

import redis
from django.core.management.base import BaseCommand
from django.db import close_old_connections

from guestbook import jobs
from guestbook.models import Entry


class Command(BaseCommand):
    help = "Does what is in the queue, one job after the other."

    def handle(self, *args, **options):
        queue = jobs.connect()
        # Also those whose job was lost on the way.
        for entry in Entry.objects.filter(words=None):
            self.count_words(entry)
        self.stdout.write("waiting for jobs")
        while True:
            try:
                job = queue.brpop(jobs.QUEUE, timeout=5)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                self.stderr.write(f"{error}; trying again")
                time.sleep(1)
                continue
            close_old_connections()
            for entry in Entry.objects.filter(pk=int(job[1])) if job else []:
                self.count_words(entry)

    def count_words(self, entry):
        entry.words = len(entry.text.split())
        entry.save(update_fields=["words"])
        self.stdout.write(f"entry {entry.pk} has {entry.words} words")
