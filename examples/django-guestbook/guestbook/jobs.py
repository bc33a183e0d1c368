"""A queue of jobs: a list in Redis, under the prefix that is this environment's alone."""

import os

import redis

QUEUE = os.environ["REDIS_PREFIX"] + "jobs"


def connect():
    # A connection that was closed while everything slept is opened again.
    return redis.Redis.from_url(os.environ["REDIS_URL"], health_check_interval=30)


def put(entry):
    connect().lpush(QUEUE, entry.pk)
