"""Webhooks on a real database."""

import uuid
from datetime import timedelta

import pytest

from errors import ConflictError, NotFound
from jobs.paging import Place
from models import WANTED_EVENTS, DeliveryStatus, Owner
from webhooks import endpoints
from webhooks.endpoints import MOST, NewWebhook


@pytest.fixture
def stranger(sessions):
    owner = Owner(name="bob")
    with sessions.begin() as session:
        session.add(owner)
    return owner.id


def test_it_is_told_of_every_end_unless_it_wants_less(make_webhook):
    assert make_webhook().events == sorted(WANTED_EVENTS)
    assert make_webhook(events=["job.failed"]).events == ["job.failed"]


def test_an_owner_has_one_for_callbacks(make_webhook, stranger):
    make_webhook(None)
    make_webhook(None, owner_id=stranger)

    with pytest.raises(ConflictError):
        make_webhook(None)


def test_an_owner_has_only_so_many(make_webhook, stranger):
    for _ in range(MOST):
        make_webhook()
    make_webhook(owner_id=stranger)

    with pytest.raises(ConflictError):
        make_webhook()


def test_a_strangers_is_as_good_as_none(sessions, make_webhook, stranger):
    webhook = make_webhook()
    with sessions() as session:
        for nobody in (webhook.id, uuid.uuid4()):
            with pytest.raises(NotFound):
                endpoints.find(session, nobody, owner_id=stranger)

        assert endpoints.find(session, webhook.id, owner_id=None).id == webhook.id
        assert endpoints.page(session, owner_id=stranger, before=None, limit=9) == []
        assert endpoints.count(session, stranger) == 0


def test_pages_go_from_the_newest_to_the_oldest(sessions, make_webhook, owner_id):
    made = [make_webhook() for _ in range(5)]
    found, place = [], None
    with sessions() as session:
        while page := endpoints.page(session, owner_id=owner_id, before=place, limit=2):
            found += [webhook.id for webhook in page]
            place = Place(page[-1].created_at, page[-1].id)

    assert found == [webhook.id for webhook in reversed(made)]


def test_what_is_disabled_drops_what_was_to_be_sent(
    sessions, make_job, make_webhook, deliveries_of
):
    webhook = make_webhook()
    make_job("completed")
    with sessions.begin() as session:
        endpoints.disable(session, webhook.id, reason="client")
    make_job("completed")
    (only,) = deliveries_of()

    assert only.status == DeliveryStatus.DROPPED
    assert only.ended_at is not None


def test_what_is_enabled_again_hears_of_what_comes(sessions, make_job, make_webhook, deliveries_of):
    webhook = make_webhook()
    for enabled in (False, True):
        with sessions.begin() as session:
            found = endpoints.find(session, webhook.id, owner_id=None)
            endpoints.change(session, found, {"enabled": enabled})
            assert (found.disabled_at is None) == enabled
    make_job("completed")

    assert [delivery.status for delivery in deliveries_of()] == ["pending"]


def test_a_rotation_is_a_new_generation(sessions, make_webhook):
    webhook = make_webhook()
    with sessions.begin() as session:
        found = endpoints.find(session, webhook.id, owner_id=None)
        endpoints.rotate(session, found, grace=timedelta(hours=1))

    assert found.generation == 2
    assert found.previous_until is not None


def test_its_deliveries_go_with_it(sessions, make_job, make_webhook, deliveries_of):
    webhook = make_webhook()
    make_job("completed")
    with sessions.begin() as session:
        endpoints.delete(session, endpoints.find(session, webhook.id, owner_id=None))

    assert deliveries_of() == []


def test_two_at_once_make_one_for_callbacks(sessions, owner_id):
    with sessions() as first, sessions() as second:
        endpoints.create(first, owner_id, NewWebhook(url=None))
        first.commit()
        with pytest.raises(ConflictError):
            endpoints.create(second, owner_id, NewWebhook(url=None))
