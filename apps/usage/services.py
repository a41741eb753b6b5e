"""What is done to the ledger beside recording: settling rows that nobody holds any more."""

from datetime import timedelta

from django.db.models import F
from django.utils import timezone

from apps.usage.models import UsageRecord, UsageStatus

# Several missed heartbeats of recorder.HEARTBEAT_S: a process that is merely slow must not be taken for gone.
OWNER_GONE_AFTER_S = 30.0


def sweep() -> int:
    """Settle as LOST every open row whose owner has stopped its heartbeat, with the counts it last wrote.

    Returns how many. Safe to run anywhere, any time, several at once: an end is only written over an open row.
    """
    cutoff = timezone.now() - timedelta(seconds=OWNER_GONE_AFTER_S)
    lost = UsageRecord.objects.filter(status=UsageStatus.OPEN, heartbeat_at__lt=cutoff)
    return lost.update(status=UsageStatus.LOST, error_code="owner_lost", finished_at=F("heartbeat_at"))
