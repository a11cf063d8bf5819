"""Large bodies: they are written a piece with each commit, so that everybody else's writes go on meanwhile.

What else is to be appended to the same stream waits, since the pieces lie where its tail is; so does the next large
body, and what is to be appended to its stream after it. When the last piece is written the pieces are told when that
was, some with each commit; then the command is decided once more, and its record, alone in a commit, makes the pieces
part of the stream. A stream that is to be created has its number from the first piece on, and nothing else is created
at its path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from unbroken.protocol.commands import Append, Command, Create, Outcome
from unbroken.protocol.lifetime import Instant
from unbroken.protocol.stream import Addition, Creation, Record, StreamState
from unbroken.store.base import Transaction

__all__ = ["Queued", "Tell", "Upload", "is_large", "tell_nobody"]

Tell = Callable[[Outcome], None]
"""Takes the outcome of a command. That the server could not decide it is an outcome here too."""

_LARGE_BYTES = 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_PIECE_BYTES_BESIDE = 128 * 1024
_DATED_BYTES = 4 * 1024 * 1024


class Queued(msgspec.Struct, frozen=True, gc=False):
    """A command that waits to be decided, and who waits for the outcome.

    Args:
        command: what is to be decided.
        tell: who waits.
        number: of the stream that it creates, if that is fixed.
    """

    command: Command
    tell: Tell
    number: int | None = None


def tell_nobody(outcome: Outcome) -> None:
    """Nobody waits for this one; that it failed is in the store's `failure`."""


def is_large(command: Command) -> bool:
    """Whether a command's body is to be written in pieces."""
    if isinstance(command, Append):
        return len(command.content.data) > _LARGE_BYTES
    return isinstance(command, Create) and command.fork is None and len(command.content.data) > _LARGE_BYTES


class Upload:
    """One large body on its way.

    Attributes:
        queued: the command that brings it.
        held: what waits for it, in order.
        written_bytes: how much of it is written, or about to be.
        dated_bytes: of how much it is written when that was, or about to be.
    """

    def __init__(self, queued: Queued) -> None:
        self.queued = queued
        self.held: deque[Queued] = deque()
        self._record: Addition | Creation | None = None
        self._held_paths = {queued.command.path}
        self.written_bytes = 0
        self.dated_bytes = 0
        self._time_ms: int | None = None

    def holds(self, queued: Queued) -> bool:
        """Whether a command has to wait, and is kept."""
        command = queued.command
        if not (is_large(command) or self._gets_in_the_way(command)):
            return False
        self._held_paths.add(command.path)
        self.held.append(queued)
        return True

    def _gets_in_the_way(self, command: Command) -> bool:
        if isinstance(command, Append):
            return command.path in self._held_paths
        # Of two streams at a path, the later one has the larger number.
        own = self.queued.command
        return isinstance(command, Create) and isinstance(own, Create) and command.path == own.path

    @property
    def begun(self) -> bool:
        """Whether it was found that the command would be accepted, and its body can be written ahead."""
        return self._record is not None

    def begin(self, records: Sequence[Record], transaction: Transaction) -> None:
        """The command would now be decided to be these records."""
        if len(records) == 1 and isinstance(record := records[0], Addition | Creation):
            self._record = record
            if isinstance(record, Creation):
                transaction.use_number()

    def fits(self, state: StreamState | None) -> bool:
        """Whether its record would still continue what is at its path."""
        if state is None:
            return isinstance(self._record, Creation)
        return state.number == self.number and not state.gone

    def complete(self) -> Queued:
        """The command, to be decided for good."""
        return Queued(self.queued.command, self.queued.tell, self.number)

    @property
    def number(self) -> int:
        """Of the stream that is written to, or will be there; 0 before the beginning."""
        return 0 if self._record is None else self._record.number

    @property
    def written(self) -> bool:
        """Whether all pieces are."""
        return self._record is not None and self.written_bytes == len(self._record.data)

    @property
    def ready(self) -> bool:
        """Whether nothing is left to do but to make them part of the stream."""
        if self._record is None or not self.written:
            return False
        size_bytes = len(self._record.data)
        return size_bytes <= _DATED_BYTES or self.dated_bytes == size_bytes

    def write_piece(self, transaction: Transaction, now_ms: int, *, alone: bool) -> int:
        """Write the next piece.

        Args:
            transaction: to write with.
            now_ms: its time.
            alone: nobody else is likely to have to wait for it.

        Returns:
            Its size in bytes.
        """
        record = self._record
        assert record is not None
        size_bytes_max = _PIECE_BYTES if alone else _PIECE_BYTES_BESIDE
        piece = record.data[self.written_bytes : self.written_bytes + size_bytes_max]
        transaction.stage(record.number, record.position + self.written_bytes, piece, now_ms)
        self.written_bytes += len(piece)
        return len(piece)

    def date_pieces(self, transaction: Transaction, now_ms: int) -> None:
        """Say of the next pieces when they were written: now, to which the record then keeps."""
        record = self._record
        assert record is not None
        if self._time_ms is None:
            self._time_ms = now_ms
        start = record.position + self.dated_bytes
        size_bytes = min(_DATED_BYTES, len(record.data) - self.dated_bytes)
        transaction.date(record.number, start, start + size_bytes, self._time_ms)
        self.dated_bytes += size_bytes

    def moment(self, now: Instant) -> Instant:
        """When it is written, decided now."""
        return now if self._time_ms is None or not self.ready else now._replace(wall_ms=self._time_ms)
