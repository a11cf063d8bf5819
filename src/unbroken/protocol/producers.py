"""Idempotent producers: the epoch and sequence table, whole.

A producer numbers its requests 0, 1, 2, ... within an epoch, and starts a new epoch when it restarts. The server
remembers the last pair it accepted per (stream, producer id):

    epoch older than known              refuse: fenced off (403 with the known epoch)
    epoch newer, sequence 0             accept: a new incarnation takes over
    epoch newer, sequence above 0       refuse: malformed (400)
    same epoch, sequence seen before    duplicate: acknowledge, append nothing
    same epoch, the next sequence       accept
    same epoch, beyond the next         refuse: a request is missing (409 with what is expected)
    unknown producer, sequence 0        accept, at any epoch
    unknown producer, sequence above 0  refuse: a gap, 0 is expected
"""

from __future__ import annotations

from typing import NamedTuple

from unbroken.errors import InvalidHeader, ProducerGap, StaleEpoch, UnbrokenError

__all__ = ["PRODUCER_INTEGER_MAX", "Producer", "ProducerStamp", "check_epoch", "check_sequence"]

PRODUCER_INTEGER_MAX = 2**53 - 1


class Producer(NamedTuple):
    """What is remembered of a producer: the last (epoch, sequence) accepted."""

    epoch: int
    seq: int


class ProducerStamp(NamedTuple):
    """What a request says of itself: who sent it and its place in order.

    Args:
        id: the producer's stable name, not empty.
        epoch: its incarnation, 0 to 2^53 - 1.
        seq: number of the request within the epoch, 0 to 2^53 - 1.
    """

    id: str
    epoch: int
    seq: int


def check_epoch(known: Producer | None, stamp: ProducerStamp) -> StaleEpoch | None:
    """Fencing, which comes before everything else that can be wrong with an append."""
    if known is not None and stamp.epoch < known.epoch:
        return StaleEpoch(known.epoch)
    return None


def check_sequence(known: Producer | None, stamp: ProducerStamp) -> UnbrokenError | bool:
    """Whether the request is new: True, False for a duplicate, or the error. The epoch is not stale."""
    if known is None:
        return True if stamp.seq == 0 else ProducerGap(0, stamp.seq)
    if stamp.epoch > known.epoch:
        return True if stamp.seq == 0 else InvalidHeader("a new producer epoch must start at Producer-Seq 0")
    if stamp.seq <= known.seq:
        return False
    return True if stamp.seq == known.seq + 1 else ProducerGap(known.seq + 1, stamp.seq)
