"""What only a client sees: no server sends these."""

from __future__ import annotations

from unbroken.errors.base import UnbrokenError

__all__ = [
    "AnswerTooLarge",
    "ConnectionLost",
    "InvalidMessage",
    "NoAnswer",
    "NotConnected",
    "OffsetLoop",
    "ProtocolViolation",
    "TimedOut",
]


class ConnectionLost(UnbrokenError):
    """The connection ended before the answer was there: whether the server has done it is not known."""

    code = "connection-lost"
    status = 502
    title = "Connection lost"


class NotConnected(ConnectionLost):
    """No connection could be made: the server has done nothing."""

    code = "not-connected"
    title = "Not connected"


class NoAnswer(ConnectionLost):
    """The server, or the network, was silent for too long: whether the server has done it is not known."""

    code = "no-answer"
    title = "No answer"


class ProtocolViolation(UnbrokenError):
    """What answered is not a server of this protocol, or not a sound one."""

    code = "protocol-violation"
    status = 502
    title = "Protocol violation"


class AnswerTooLarge(ProtocolViolation):
    """An answer is longer than this client takes."""

    code = "answer-too-large"
    title = "Answer too large"


class OffsetLoop(ProtocolViolation):
    """The server sends data but does not get on: its offset stays, or goes back."""

    code = "offset-loop"
    title = "Offset loop"


class InvalidMessage(ProtocolViolation):
    """A message is not of the type that was asked for.

    Attributes:
        data: the message.
        position: where to go on after it.
    """

    code = "invalid-message"
    title = "Invalid message"

    def __init__(self, detail: str = "", *, data: bytes = b"", position: str = "") -> None:
        super().__init__(detail)
        self.data = data
        self.position = position


class TimedOut(UnbrokenError):
    """It took longer than the caller allowed."""

    code = "timed-out"
    status = 504
    title = "Timed out"
