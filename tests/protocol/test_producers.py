"""Idempotent producers: the table of epochs and sequence numbers."""

from __future__ import annotations

import pytest

from tests.protocol.support import told
from unbroken.errors import InvalidHeader, ProducerGap, StaleEpoch
from unbroken.protocol.producers import Producer, ProducerStamp, check_epoch, check_sequence

LARGEST = 2**53 - 1


def stamp(epoch: int, seq: int) -> ProducerStamp:
    return ProducerStamp("p", epoch, seq)


@pytest.mark.parametrize(
    ("known", "epoch", "fenced_by"),
    [
        pytest.param(None, 0, None, id="unknown"),
        pytest.param(Producer(0, 0), 0, None, id="same"),
        pytest.param(Producer(0, 0), 1, None, id="newer"),
        pytest.param(Producer(1, 7), 0, 1, id="older"),
        pytest.param(Producer(LARGEST, 0), LARGEST - 1, LARGEST, id="older-by-one-at-the-limit"),
    ],
)
def test_an_older_epoch_is_fenced_off(known: Producer | None, epoch: int, fenced_by: int | None) -> None:
    refusal = check_epoch(known, stamp(epoch, 0))
    if fenced_by is None:
        assert refusal is None
    else:
        assert isinstance(refusal, StaleEpoch)
        assert refusal.status == 403
        assert refusal.headers() == {"Producer-Epoch": str(fenced_by)}


@pytest.mark.parametrize(
    ("known", "sent", "is_new"),
    [
        pytest.param(None, stamp(0, 0), True, id="unknown-starts"),
        pytest.param(None, stamp(7, 0), True, id="unknown-starts-at-any-epoch"),
        pytest.param(Producer(0, 4), stamp(0, 5), True, id="next"),
        pytest.param(Producer(0, 4), stamp(0, 4), False, id="last-again"),
        pytest.param(Producer(0, 4), stamp(0, 0), False, id="first-again"),
        pytest.param(Producer(0, 4), stamp(1, 0), True, id="newer-epoch-starts"),
        pytest.param(Producer(0, 4), stamp(9, 0), True, id="newer-epoch-may-jump"),
        pytest.param(Producer(3, LARGEST - 1), stamp(3, LARGEST), True, id="last-number-there-is"),
        pytest.param(Producer(3, LARGEST), stamp(3, LARGEST), False, id="last-number-again"),
    ],
)
def test_what_is_new_and_what_is_a_duplicate(known: Producer | None, sent: ProducerStamp, is_new: bool) -> None:
    assert check_sequence(known, sent) is is_new


@pytest.mark.parametrize(
    ("known", "sent", "expected"),
    [
        pytest.param(None, stamp(0, 1), 0, id="unknown"),
        pytest.param(None, stamp(5, LARGEST), 0, id="unknown-far"),
        pytest.param(Producer(0, 4), stamp(0, 6), 5, id="one-missing"),
        pytest.param(Producer(0, 0), stamp(0, LARGEST), 1, id="many-missing"),
    ],
)
def test_a_gap_tells_what_is_expected(known: Producer | None, sent: ProducerStamp, expected: int) -> None:
    refusal = check_sequence(known, sent)
    assert isinstance(refusal, ProducerGap)
    assert refusal.status == 409
    assert refusal.headers() == {"Producer-Expected-Seq": str(expected), "Producer-Received-Seq": str(sent.seq)}


@pytest.mark.parametrize("seq", [1, 5, LARGEST])
def test_a_newer_epoch_must_start_at_zero(seq: int) -> None:
    refusal = check_sequence(Producer(0, 4), stamp(1, seq))
    assert isinstance(refusal, InvalidHeader), told(refusal)
    assert refusal.status == 400
