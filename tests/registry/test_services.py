"""Asking for replicas."""

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from apps.core.errors import ModelNotFound, Unavailable
from apps.registry import services
from apps.registry.models import HostedModel, Node, Replica, ReplicaState
from tests.factories import make_model


def test_asking_twice_starts_one(node):
    model = make_model()
    services.request_replica(model_id=model.pk)
    services.request_replica(model_id=model.pk)
    assert Replica.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_asking_at_the_same_time_starts_one(node):
    model = make_model()
    barrier = threading.Barrier(4)

    def ask():
        barrier.wait()
        services.request_replica(model_id=model.pk)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Replica.objects.count() == 1


def test_a_launch_is_sent_to_the_machines_queue_once_the_row_is_committed(node, django_capture_on_commit_callbacks):
    model = make_model()
    with django_capture_on_commit_callbacks() as callbacks:
        services.request_replica(model_id=model.pk)
    assert len(callbacks) == 1


def test_a_model_that_just_failed_is_not_tried_again_at_once(node):
    model = make_model()
    services.request_replica(model_id=model.pk)
    services.fail(replica=Replica.objects.get(), error="no weights")
    services.request_replica(model_id=model.pk)
    assert Replica.objects.count() == 1
    Replica.objects.update(state_changed_at=timezone.now() - timedelta(seconds=services.FAILED_REST_S + 1))
    services.request_replica(model_id=model.pk)
    assert sorted(Replica.objects.values_list("state", flat=True)) == [ReplicaState.REQUESTED, ReplicaState.STOPPED]


def test_min_replicas_do_not_hammer_a_broken_model(node):
    make_model(min_replicas=1)
    services.ensure_desired()
    services.fail(replica=Replica.objects.get(), error="no weights")
    Replica.objects.update(state_changed_at=timezone.now() - timedelta(seconds=services.FAILED_RETRY_S - 5))
    services.ensure_desired()
    assert Replica.objects.count() == 1
    Replica.objects.update(state_changed_at=timezone.now() - timedelta(seconds=services.FAILED_RETRY_S + 1))
    services.ensure_desired()
    assert Replica.objects.filter(state=ReplicaState.REQUESTED).count() == 1


def test_without_a_machine_it_says_so(db):
    model = make_model()
    with pytest.raises(Unavailable, match="No machine"):
        services.request_replica(model_id=model.pk)
    assert not Replica.objects.exists()


def test_a_machine_that_was_not_seen_lately_gets_no_work(node):
    Node.objects.update(last_seen_at=timezone.now() - timedelta(minutes=5))
    with pytest.raises(Unavailable):
        services.request_replica(model_id=make_model().pk)


def test_a_disabled_model_is_not_started(node):
    model = make_model(enabled=False)
    with pytest.raises(ModelNotFound):
        services.request_replica(model_id=model.pk)


def test_draining_a_replica_that_was_never_started_stops_it(node):
    model = make_model()
    services.request_replica(model_id=model.pk)
    assert services.drain_model(model=model) == 1
    assert Replica.objects.get().state == ReplicaState.STOPPED


def test_old_stopped_rows_are_deleted(node):
    model: HostedModel = make_model()
    services.request_replica(model_id=model.pk)
    services.drain_model(model=model)
    services.ensure_desired()
    assert Replica.objects.exists()
    Replica.objects.update(state_changed_at=timezone.now() - timedelta(days=services.STOPPED_KEPT_DAYS, hours=1))
    services.ensure_desired()
    assert not Replica.objects.exists()
