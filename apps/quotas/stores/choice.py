"""Which store this installation has: Redis where REDIS_URL names one, else the database."""

from functools import cache

from django.conf import settings

from apps.quotas.stores.base import Store
from apps.quotas.stores.database import DatabaseStore
from apps.quotas.stores.redis import RedisStore


@cache
def get_store() -> Store:
    """The one of this process."""
    return RedisStore(settings.REDIS_URL) if settings.REDIS_URL else DatabaseStore()
