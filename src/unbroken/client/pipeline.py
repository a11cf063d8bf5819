"""Exactly-once writing: the one state machine of a producer, without I/O, clock, chance or threads.

Messages are put into a bounded buffer, packed into appends, and sent with consecutive sequence numbers; the server
takes each number once and in order. So an append whose answer was lost is simply sent again, for as long as it takes.

- Several may be in flight. When a later one overtakes an earlier one, the server refuses it as a gap; it is sent again
  once the earlier one is done. After any failure the oldest goes first and alone, the others follow.
- An answer to one proves that all before it were taken.
- The append that closes the stream goes alone: of a closed stream, a server recognises nothing but that one.
- The first append of an epoch goes alone. If the server says that it has it already, somebody else may have written
  with this id and epoch: the stream is looked at, from where it ended before, and what is there decides.
- A newer epoch fences this producer off. If it may claim one of its own, what has certainly not been taken is sent
  again in that. Where the answer was lost the stream is looked at. If even that does not tell, the error is raised:
  nothing is guessed.
- What cannot be mended is kept as the failure, and raised by whatever is done next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from unbroken.client.retry import Retry, did_nothing, is_passing
from unbroken.errors import EpochInUse, ProducerGap, StaleEpoch, StreamClosed, TimedOut, UnbrokenError

__all__ = ["Append", "Look", "Pipeline", "Sizes"]

UNPLACED_MAX = 64
"""So many appends in a row whose end is not told are kept, to be found again. Servers tell of nearly all."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How messages are packed.

    Args:
        batch_bytes: size of an append at which no more is added to it; a larger message goes alone.
        batch_messages: the same in messages.
        in_flight: how many appends may be under way at once.
        buffer_bytes: how much may be waiting and under way, all together.
        linger_s: how long a message may wait for others to go with it, in seconds.
    """

    batch_bytes: int
    batch_messages: int
    in_flight: int
    buffer_bytes: int
    linger_s: float

    def __post_init__(self) -> None:
        if min(self.batch_bytes, self.batch_messages, self.in_flight, self.buffer_bytes) < 1 or self.linger_s < 0:
            raise ValueError("sizes must be at least 1, and the time to linger not negative")


@dataclass(slots=True, eq=False)
class Append:
    """One request of a producer.

    Attributes:
        epoch: the producer's.
        seq: its number.
        messages: what it brings.
        closes: the stream is closed with it.
        size_bytes: of the messages.
        since_s: when it was sent first.
        in_flight: it is being sent now.
        was_oldest: all before it were taken when it was sent.
        unsure: it may have been taken, but the answer was lost.
        done: it was taken.
    """

    epoch: int
    seq: int
    messages: list[bytes]
    closes: bool
    size_bytes: int
    since_s: float
    in_flight: bool = False
    was_oldest: bool = False
    unsure: bool = False
    done: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """The stream is to be looked at.

    Args:
        offset: from where to read it to its end, to see which appends are in it; None if only where it ends matters.
    """

    offset: str | None


class Pipeline:
    """The state of a producer.

    Args:
        epoch: its incarnation.
        sizes: how messages are packed.
        retry: how long pauses are.
        auto_claim: take over when fenced off, by claiming a newer epoch.
        deadline_s: how long an append may take from its first attempt, in seconds; None for ever.

    Attributes:
        epoch: its present incarnation.
        next_offset: the stream's end after the last append whose answer told; to be set at first.
        taken: how many messages are taken for good.
        put_count: how many messages were put in, in all.
        failure: why it cannot go on.
        closed: the stream is closed, as was asked for.
    """

    def __init__(self, epoch: int, sizes: Sizes, retry: Retry, *, auto_claim: bool, deadline_s: float | None) -> None:
        self.epoch = epoch
        self.next_offset = ""
        self.taken = 0
        self.put_count = 0
        self.failure: Exception | None = None
        self.closed = False
        self._sizes = sizes
        self._retry = retry
        self._auto_claim = auto_claim
        self._deadline_s = deadline_s
        self._next_seq = 0
        self._buffer: deque[bytes] = deque()
        self._buffer_bytes = 0
        self._buffer_since_s = 0.0
        self._held_bytes = 0
        self._appends: deque[Append] = deque()
        self._unplaced: list[Append] = []  # taken, but where they end was not told
        self._knows_place = True
        self._flush_to = 0
        self._closing = False
        self._failures = 0
        self._resume_s = 0.0
        self._established = False  # the server has taken something in this epoch
        self._alone = True  # only the oldest append may be in flight
        self._fenced_by: int | None = None
        self._is_repeated = False  # the server says that it has the first append of this epoch already
        self._looking = False

    # --- what comes in ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Make sure that it can go on.

        Raises:
            Exception: the failure, if there is one.
            StreamClosed: the stream was closed by `close`.
        """
        if self.failure is not None:
            raise self.failure
        if self._closing:
            raise StreamClosed(self.next_offset)

    def has_room(self, size_bytes: int) -> bool:
        """Whether a message fits into the buffer. Any fits into an empty one."""
        return not self._held_bytes or self._held_bytes + size_bytes <= self._sizes.buffer_bytes

    def put(self, message: bytes, now_s: float) -> bool:
        """Take a message.

        Returns:
            Whether there is something new to do.
        """
        size = len(message)
        was_full = self._buffer_bytes >= self._sizes.batch_bytes
        if not self._buffer:
            self._buffer_since_s = now_s
        self._buffer.append(message)
        self._buffer_bytes += size
        self._held_bytes += size
        self.put_count += 1
        return len(self._buffer) == 1 or (not was_full and self._is_full())

    def _is_full(self) -> bool:
        return self._buffer_bytes >= self._sizes.batch_bytes or len(self._buffer) >= self._sizes.batch_messages

    def flush(self) -> int:
        """Let nothing linger of what was put in so far.

        Returns:
            The number that `taken` will have reached when all of it is.
        """
        self._flush_to = self.put_count
        return self.put_count

    def close(self) -> None:
        """Close the stream with, or after, the last message."""
        self._closing = True
        self.flush()

    # --- what goes out ---------------------------------------------------------------------------------------------

    def next(self, now_s: float) -> Append | Look | float | None:
        """What to do now.

        Returns:
            An append to send, the stream to look at, how many seconds to wait, or None: wait until something happens.
        """
        if self.failure is not None or self.closed or self._looking:
            return None
        under_way = sum(append.in_flight for append in self._appends)
        if now_s < self._resume_s:
            return self._resume_s - now_s
        if self._fenced_by is not None or self._is_repeated:
            if under_way:
                return None
            self._looking = True
            return Look(self.next_offset if any(append.unsure for append in self._appends) else None)
        for append in self._appends:
            if not append.in_flight:
                return self._sent(append) if not self._alone or append is self._appends[0] else None
        if (self._alone and self._appends) or under_way >= self._sizes.in_flight:
            return None
        return self._pack(now_s)

    def _sent(self, append: Append) -> Append:
        """An append, which is sent now."""
        append.in_flight = True
        append.was_oldest = append is self._appends[0]
        return append

    def _pack(self, now_s: float) -> Append | float | None:
        """A new append of what is in the buffer, if it is time."""
        if not self._buffer:
            if not self._closing or any(append.closes for append in self._appends):
                return None
        elif not self._is_full() and self.put_count - len(self._buffer) >= self._flush_to:
            left_s = self._buffer_since_s + self._sizes.linger_s - now_s
            if left_s > 0:
                return left_s
        if self._closing and self._appends and self._fits():
            return None
        messages: list[bytes] = []
        size = 0
        while self._buffer and len(messages) < self._sizes.batch_messages:
            if messages and size + len(self._buffer[0]) > self._sizes.batch_bytes:
                break
            messages.append(self._buffer.popleft())
            size += len(messages[-1])
        self._buffer_bytes -= size
        self._buffer_since_s = now_s
        append = Append(self.epoch, self._next_seq, messages, self._closing and not self._buffer, size, now_s)
        self._next_seq += 1
        self._appends.append(append)
        return self._sent(append)

    def _fits(self) -> bool:
        """Whether all of the buffer goes into one append."""
        count = len(self._buffer)
        return count <= self._sizes.batch_messages and (count < 2 or self._buffer_bytes <= self._sizes.batch_bytes)

    # --- what comes back -------------------------------------------------------------------------------------------

    def succeeded(self, append: Append, next_offset: str, *, duplicate: bool) -> None:
        """The server has an append.

        Args:
            append: which.
            next_offset: the stream's end after it; empty if that was not told.
            duplicate: the server had it before.
        """
        append.in_flight = False
        if append.done:
            return
        self._failures = 0
        if duplicate and append.messages and not self._established:
            append.unsure = self._is_repeated = True
            return
        self._take_to(append.seq)
        if next_offset and not duplicate:  # what is told of a duplicate is the present end, wherever that is
            self._ends_at(next_offset)

    def _ends_at(self, offset: str) -> None:
        self.next_offset = offset
        self._unplaced.clear()
        self._knows_place = True

    def _take_to(self, seq: int) -> None:
        """All appends up to this one are taken."""
        while self._appends and self._appends[0].seq <= seq:
            append = self._appends.popleft()
            append.done = True
            self.taken += len(append.messages)
            self._held_bytes -= append.size_bytes
            self.closed = self.closed or append.closes
            self._unplaced.append(append)
            if len(self._unplaced) > UNPLACED_MAX:
                self._unplaced.clear()
                self._knows_place = False
            self._established = True
            self._alone = False

    def failed(self, append: Append, error: UnbrokenError, now_s: float) -> None:
        """An append was refused, or its answer was lost."""
        append.in_flight = False
        if append.done:
            return
        if isinstance(error, ProducerGap):
            self._overtook(append, error)
        elif isinstance(error, StaleEpoch) and self._auto_claim:
            self._fenced_by = max(error.current_epoch, self._fenced_by or 0)
        elif is_passing(error):
            append.unsure = append.unsure or not did_nothing(error)
            self._alone = True
            pause_s = self._pause(error, now_s)
            if self._deadline_s is not None and now_s + pause_s - append.since_s >= self._deadline_s:
                self._give_up(error)
        else:
            if error.request is not None and append.unsure:
                error.request = error.request._replace(unsure=True)
            self.failure = error

    def _overtook(self, append: Append, gap: ProducerGap) -> None:
        """The server waited for an earlier one. That may have arrived, and even been answered, in the meantime."""
        if append.was_oldest:
            self.failure = gap  # it has forgotten what it had taken
            return
        self._take_to(min(gap.expected_seq, append.seq) - 1)
        self._alone = True

    def _pause(self, error: UnbrokenError, now_s: float) -> float:
        """Several fail at once when a server goes away: that counts once."""
        if now_s >= self._resume_s:
            self._failures += 1
            self._resume_s = now_s + self._retry.pause_s(self._failures, error.retry_after_s)
        return self._resume_s - now_s

    def _give_up(self, error: UnbrokenError) -> None:
        failure = TimedOut(f"an append was not done in {self._deadline_s:g} seconds: {error}")
        failure.request = error.request
        failure.__cause__ = error
        self.failure = failure

    # --- fenced off ------------------------------------------------------------------------------------------------

    def look_failed(self, error: UnbrokenError, now_s: float) -> None:
        """The stream could not be read."""
        self._looking = False
        if is_passing(error):
            self._pause(error, now_s)
        else:
            self.failure = error

    def looked(self, content: bytes, end: str, written: Callable[[list[bytes]], bytes], now_s: float) -> None:
        """The stream was read: see which appends are in it. They can only be there in order.

        Args:
            content: from the offset of the `Look` to the end.
            end: the offset of that end. What is not there by now will never be: the server refuses it.
            written: what a list of messages looks like in it.
            now_s: the time.
        """
        self._looking = False
        if any(append.unsure for append in self._appends):
            self._find(content, written)
        if self.failure is not None:
            return
        self._ends_at(end)
        if self._fenced_by is None and self._established:
            self._is_repeated = False
        else:
            self._claim(now_s)

    def _find(self, content: bytes, written: Callable[[list[bytes]], bytes]) -> None:
        place = self._place_after_taken(content, written)
        for append in list(self._appends):
            text = written(append.messages)
            is_next = bool(append.messages) and content.startswith(text, place or 0)
            if place is None or (append.unsure and append.messages and not is_next and content.find(text, place) >= 0):
                self._cannot_tell()
                return
            if not append.unsure or not is_next:
                break
            self._take_to(append.seq)
            place += len(text)
        for append in self._appends:
            append.unsure = False

    def _place_after_taken(self, content: bytes, written: Callable[[list[bytes]], bytes]) -> int | None:
        """Where in the content that ends which is known to be taken; None if that cannot be told."""
        if not self._knows_place:
            return None
        place = 0
        for append in self._unplaced:
            text = written(append.messages)
            found = content.find(text, place)
            if found < 0:
                return None
            place = found + len(text)
        return place

    def _cannot_tell(self) -> None:
        """It might be there, or somebody else wrote the same: sending it again might double it."""
        failure = EpochInUse(self.epoch) if self._fenced_by is None else StaleEpoch(self._fenced_by)
        failure.detail += "; whether the last append was taken cannot be told"
        failure.args = (failure.detail,)
        self.failure = failure

    def _claim(self, now_s: float) -> None:
        """Go on in an epoch of its own. Nothing is in flight, and nothing that is left was taken."""
        if not self._auto_claim:
            self.failure = EpochInUse(self.epoch)
            return
        self._failures += 1
        if self._failures > 1:  # somebody else does the same
            self._resume_s = now_s + self._retry.pause_s(self._failures)
        self.epoch = max(self.epoch, self._fenced_by or 0) + 1
        for seq, append in enumerate(self._appends):
            append.epoch, append.seq = self.epoch, seq
        self._next_seq = len(self._appends)
        self._fenced_by = None
        self._is_repeated = self._established = False
        self._alone = True
