"""The state machine of a producer, against a model of a server and a network that loses, delays, repeats and
reorders."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import pytest

from unbroken import errors
from unbroken.client.codec import as_found
from unbroken.client.pipeline import UNPLACED_MAX, Append, Look, Pipeline, Sizes
from unbroken.client.retry import Retry

FOUND = partial(as_found, json_messages=False)
SIZES = Sizes(batch_bytes=6, batch_messages=3, in_flight=3, buffer_bytes=40, linger_s=0.5)


def a_pipeline(sizes: Sizes = SIZES, *, epoch: int = 0, auto_claim: bool = False, **options: Any) -> Pipeline:
    pipeline = Pipeline(
        epoch, sizes, Retry(chance=lambda: 0.5), auto_claim=auto_claim, deadline_s=options.get("deadline_s")
    )
    pipeline.next_offset = "0"
    return pipeline


@dataclass
class Server:
    """What a server does with a producer's appends. Offsets are counts of messages."""

    content: list[bytes] = field(default_factory=list)
    epoch: int = -1
    seq: int = -1
    closed: bool = False

    def append(self, epoch: int, seq: int, messages: list[bytes], *, closes: bool) -> bool:
        """Whether it was new. Raises what a server would refuse with."""
        if epoch < self.epoch:
            raise errors.StaleEpoch(self.epoch)
        if self.closed and (epoch, seq) != (self.epoch, self.seq):
            raise errors.StreamClosed(str(len(self.content)))
        last = self.seq if epoch == self.epoch else -1
        if epoch > self.epoch and seq > 0:
            raise errors.InvalidRequest("a new epoch begins with 0") if self.epoch >= 0 else errors.ProducerGap(0, seq)
        if seq <= last:
            return False
        if seq > last + 1:
            raise errors.ProducerGap(last + 1, seq)
        self.epoch, self.seq = epoch, seq
        self.content += messages
        self.closed = self.closed or closes
        return True

    def show(self, pipeline: Pipeline, look: Look) -> None:
        content = b"" if look.offset is None else FOUND(self.content[int(look.offset) :])
        pipeline.looked(content, str(len(self.content)), FOUND, 0.0)


def append_at(server: Server, pipeline: Pipeline, append: Append, now_s: float = 0.0) -> None:
    """Send an append, and take the answer."""
    try:
        new = server.append(append.epoch, append.seq, append.messages, closes=append.closes)
    except errors.UnbrokenError as error:
        pipeline.failed(append, error, now_s)
    else:
        duplicate = not new and bool(append.messages)
        pipeline.succeeded(append, str(len(server.content)), duplicate=duplicate)


def lost() -> errors.UnbrokenError:
    error = errors.ConnectionLost("lost")
    error.request = errors.FailedRequest("POST", "http://server/stream")
    return error


def sent(pipeline: Pipeline, now_s: float = 0.0) -> Append:
    append = pipeline.next(now_s)
    assert isinstance(append, Append), append
    return append


Request = tuple[int, int, list[bytes], bool]


class Run:
    """A seeded run: everything that can happen, in some order."""

    def __init__(self, seed: int, *, rivals: bool) -> None:
        self.chance = Random(seed)
        self.server = Server()
        self.pipeline = a_pipeline(auto_claim=True)
        self.rivals = rivals
        self.now_s = 0.0
        self.count = 0
        self.under_way: list[tuple[Append, Request]] = []
        self.ghosts: list[Request] = []

    def step(self) -> None:
        happens = self.chance.random()
        if happens < 0.3:
            self.put()
        elif happens < 0.6:
            self.next()
        elif happens < 0.9:
            self.answer()
        elif happens < 0.94 and self.ghosts:
            self.at_server(self.ghosts.pop(self.chance.randrange(len(self.ghosts))))
        elif happens < 0.95 and self.rivals:
            self.server.append(self.server.epoch + 1, 0, [b"<%d>" % self.chance.randrange(10**9)], closes=False)
        self.now_s += self.chance.random()

    def put(self) -> None:
        message = b"(%d)" % self.count
        if self.pipeline.has_room(len(message)):
            self.pipeline.put(message, self.now_s)
            self.count += 1

    def next(self) -> None:
        step = self.pipeline.next(self.now_s)
        if isinstance(step, Look):
            if self.chance.random() < 0.3:
                self.pipeline.look_failed(lost(), self.now_s)
            else:
                self.server.show(self.pipeline, step)
        elif isinstance(step, Append):
            assert sum(append.in_flight for append in self.pipeline._appends) <= SIZES.in_flight
            self.under_way.append((step, (step.epoch, step.seq, step.messages, step.closes)))

    def at_server(self, request: Request) -> bool | errors.UnbrokenError:
        epoch, seq, messages, closes = request
        try:
            return self.server.append(epoch, seq, messages, closes=closes)
        except errors.UnbrokenError as error:
            return error

    def answer(self) -> None:
        """Some append arrives, or does not, or later, or twice; its answer comes, or does not."""
        if not self.under_way:
            return
        append, request = self.under_way.pop(self.chance.randrange(len(self.under_way)))
        happens = self.chance.random()
        if happens < 0.1:
            self.ghosts.append(request)
            result: Any = lost()
        elif happens < 0.2:
            self.at_server(request)
            result = lost()
        elif happens < 0.3:
            result = errors.Overloaded()
        else:
            if happens < 0.4:
                self.at_server(request)
            result = self.at_server(request)
        if isinstance(result, errors.UnbrokenError):
            self.pipeline.failed(append, result, self.now_s)
        else:
            told = str(len(self.server.content)) if not result or self.chance.random() < 0.8 else ""
            self.pipeline.succeeded(append, told, duplicate=not result and bool(append.messages))

    def finish(self) -> None:
        self.pipeline.close()
        for _ in range(10_000):
            if self.pipeline.closed or self.pipeline.failure:
                return
            for _ in range(self.chance.randrange(4)):
                self.next()
            self.answer()
            self.now_s += 1
        raise AssertionError("it does not end")


@pytest.mark.parametrize("rivals", [False, True])
def test_each_message_is_written_once_and_in_order(rivals: bool) -> None:
    unsure = 0
    for seed in range(400):
        run = Run(seed, rivals=rivals)
        for _ in range(150):
            run.step()
        run.finish()
        ours = [message for message in run.server.content if message.startswith(b"(")]
        put = [b"(%d)" % number for number in range(run.count)]
        assert ours == put[: len(ours)], seed
        if run.pipeline.failure is None:
            assert ours == put, seed
            assert run.server.closed
            assert run.pipeline.taken == run.count
        else:
            unsure += 1
            assert rivals
            assert isinstance(run.pipeline.failure, errors.StaleEpoch | errors.EpochInUse), seed
            assert "cannot be told" in str(run.pipeline.failure), seed
    assert unsure < 40, unsure


def test_messages_wait_for_others_or_go_when_there_are_enough() -> None:
    pipeline = a_pipeline()
    assert pipeline.next(0.0) is None
    assert pipeline.put(b"a", 1.0)
    assert pipeline.next(1.25) == 0.25
    assert not pipeline.put(b"b", 1.25)
    assert pipeline.put(b"c", 1.25)
    assert sent(pipeline, 1.25).messages == [b"a", b"b", b"c"]
    assert a_pipeline().put(b"more than enough", 0.0)


def test_a_large_message_goes_alone() -> None:
    pipeline = a_pipeline(Sizes(6, 10, 1, 100, 9.0))
    for message in (b"a", b"b" * 20, b"c"):
        pipeline.put(message, 0.0)
    pipeline.flush()
    server = Server()
    for expected in ([b"a"], [b"b" * 20], [b"c"]):
        append = sent(pipeline)
        assert append.messages == expected
        append_at(server, pipeline, append)
    assert pipeline.next(0.0) is None


def test_the_buffer_has_an_end() -> None:
    pipeline = a_pipeline(Sizes(6, 10, 1, 10, 0.0))
    assert pipeline.has_room(1000)
    pipeline.put(b"x" * 9, 0.0)
    assert pipeline.has_room(1)
    assert not pipeline.has_room(2)
    append_at(Server(), pipeline, sent(pipeline))
    assert pipeline.has_room(1000)


def test_the_first_goes_alone_and_then_several() -> None:
    pipeline, server = a_pipeline(), Server()
    for _ in range(15):
        pipeline.put(b"12", 0.0)
    first = sent(pipeline)
    assert pipeline.next(0.0) is None
    append_at(server, pipeline, first)
    three = [sent(pipeline) for _ in range(3)]
    assert pipeline.next(0.0) is None
    for append in reversed(three):  # the later ones are refused, and go again when it is their turn
        append_at(server, pipeline, append)
    assert len(server.content) == 6
    assert sent(pipeline) is three[1]
    append_at(server, pipeline, three[1])
    assert sent(pipeline) is three[2]


def test_a_later_answer_proves_the_earlier() -> None:
    pipeline, server = a_pipeline(), Server()
    for _ in range(9):
        pipeline.put(b"12", 0.0)
    append_at(server, pipeline, sent(pipeline))
    second, third = sent(pipeline), sent(pipeline)
    server.append(second.epoch, second.seq, second.messages, closes=False)
    append_at(server, pipeline, third)
    assert pipeline.taken == 9
    pipeline.failed(second, lost(), 0.0)
    assert pipeline.failure is None
    assert pipeline.next(0.0) is None


def test_after_a_failure_it_waits_and_the_oldest_goes_first() -> None:
    pipeline, server = a_pipeline(), Server()
    for _ in range(9):
        pipeline.put(b"12", 0.0)
    append_at(server, pipeline, sent(pipeline))
    second, third = sent(pipeline), sent(pipeline)
    pipeline.failed(third, lost(), 0.0)
    pipeline.failed(second, lost(), 0.0)
    assert pipeline.next(0.0) == pytest.approx(0.05)  # it counts once
    assert sent(pipeline, 1.0) is second
    assert pipeline.next(1.0) is None
    pipeline.failed(second, lost(), 1.0)
    assert pipeline.next(1.0) == pytest.approx(0.1)


def test_a_server_that_asks_for_time_gets_it() -> None:
    pipeline = a_pipeline()
    pipeline.put(b"1234567", 0.0)
    busy = errors.TooManyRequests()
    busy.retry_after_s = 7.0
    pipeline.failed(sent(pipeline), busy, 0.0)
    assert pipeline.next(0.0) == pytest.approx(7.05)


def test_a_deadline_ends_it() -> None:
    pipeline = a_pipeline(deadline_s=3.0)
    pipeline.put(b"1234567", 0.0)
    append = sent(pipeline, 1.0)
    pipeline.failed(append, lost(), 2.0)
    assert pipeline.failure is None
    assert sent(pipeline, 3.0) is append
    pipeline.failed(append, lost(), 3.95)
    assert isinstance(pipeline.failure, errors.TimedOut)
    assert isinstance(pipeline.failure.__cause__, errors.ConnectionLost)
    with pytest.raises(errors.TimedOut):
        pipeline.check()


def test_what_cannot_be_mended_is_kept() -> None:
    pipeline = a_pipeline()
    pipeline.put(b"1234567", 0.0)
    append = sent(pipeline)
    pipeline.failed(append, lost(), 0.0)
    gone = errors.StreamGone("gone")
    gone.request = errors.FailedRequest("POST", "http://server/stream")
    pipeline.failed(sent(pipeline, 9.0), gone, 9.0)
    assert pipeline.failure is gone
    assert gone.request.unsure
    assert pipeline.next(9.0) is None


def test_a_server_that_forgot_what_it_took() -> None:
    pipeline, server = a_pipeline(), Server()
    pipeline.put(b"1234567", 0.0)
    append_at(server, pipeline, sent(pipeline))
    pipeline.put(b"1234567", 0.0)
    append_at(Server(), pipeline, sent(pipeline))
    assert isinstance(pipeline.failure, errors.ProducerGap)


def test_without_leave_to_claim_a_newer_epoch_is_the_end() -> None:
    pipeline = a_pipeline()
    pipeline.put(b"1234567", 0.0)
    append_at(Server(epoch=4, seq=2), pipeline, sent(pipeline))
    assert isinstance(pipeline.failure, errors.StaleEpoch)
    assert pipeline.failure.current_epoch == 4


def restarted(server: Server, *, auto_claim: bool) -> Pipeline:
    """A producer that starts again in the epoch of its last run."""
    pipeline = a_pipeline(auto_claim=auto_claim)
    pipeline.next_offset = str(len(server.content))
    pipeline.put(b"new", 0.0)
    pipeline.flush()
    append_at(server, pipeline, sent(pipeline))
    look = pipeline.next(0.0)
    assert isinstance(look, Look)
    assert pipeline.next(0.0) is None
    server.show(pipeline, look)
    return pipeline


def test_an_epoch_that_was_used_is_not_used_again() -> None:
    server = Server([b"old"], epoch=0, seq=0)
    pipeline = restarted(server, auto_claim=False)
    assert pipeline.next(0.0) is None
    assert isinstance(pipeline.failure, errors.EpochInUse)
    assert server.content == [b"old"]


def test_an_epoch_that_was_used_is_left_for_a_new_one() -> None:
    server = Server([b"old"], epoch=0, seq=0)
    pipeline = restarted(server, auto_claim=True)
    append_at(server, pipeline, sent(pipeline, 9.0))
    assert server.content == [b"old", b"new"]
    assert (pipeline.epoch, pipeline.taken) == (1, 1)


def test_a_proxy_that_sent_the_first_append_twice() -> None:
    pipeline, server = a_pipeline(), Server()
    pipeline.put(b"1234567", 0.0)
    append = sent(pipeline)
    server.append(append.epoch, append.seq, append.messages, closes=False)
    append_at(server, pipeline, append)
    look = pipeline.next(0.0)
    assert isinstance(look, Look)
    server.show(pipeline, look)
    assert (pipeline.taken, pipeline.epoch) == (1, 0)
    pipeline.put(b"1234567", 0.0)
    append_at(server, pipeline, sent(pipeline))
    assert len(server.content) == 2


def test_when_it_cannot_be_told_nothing_is_guessed() -> None:
    pipeline, server = a_pipeline(auto_claim=True), Server()
    pipeline.put(b"1234567", 0.0)
    append = sent(pipeline)
    pipeline.failed(append, lost(), 0.0)
    server.append(5, 0, [b"before", *append.messages], closes=False)  # somebody else wrote the same
    append_at(server, pipeline, sent(pipeline, 1.0), 1.0)
    look = pipeline.next(2.0)
    assert isinstance(look, Look)
    server.show(pipeline, look)
    assert isinstance(pipeline.failure, errors.StaleEpoch)


def test_appends_without_an_end_are_not_kept_for_ever() -> None:
    pipeline, server = a_pipeline(auto_claim=True), Server()
    for _ in range(UNPLACED_MAX + 1):
        pipeline.put(b"1234567", 0.0)
        append = sent(pipeline)
        server.append(append.epoch, append.seq, append.messages, closes=False)
        pipeline.succeeded(append, "", duplicate=False)
    pipeline.put(b"1234567", 0.0)
    append = sent(pipeline)
    pipeline.failed(append, lost(), 0.0)
    server.append(1, 0, [b"rival"], closes=False)
    append_at(server, pipeline, sent(pipeline, 1.0), 1.0)
    look = pipeline.next(2.0)
    assert isinstance(look, Look)
    server.show(pipeline, look)
    assert isinstance(pipeline.failure, errors.StaleEpoch)


def test_the_stream_is_looked_at_again_when_that_fails() -> None:
    server = Server([b"old"], epoch=0, seq=0)
    pipeline = a_pipeline(auto_claim=True)
    pipeline.put(b"1234567", 0.0)
    append_at(server, pipeline, sent(pipeline))
    assert isinstance(pipeline.next(0.0), Look)
    pipeline.look_failed(lost(), 0.0)
    assert isinstance(pipeline.next(1.0), Look)
    pipeline.look_failed(errors.StreamNotFound(), 1.0)
    assert isinstance(pipeline.failure, errors.StreamNotFound)


def test_closing_takes_the_last_message_with_it() -> None:
    pipeline, server = a_pipeline(), Server()
    pipeline.put(b"a", 0.0)
    pipeline.close()
    with pytest.raises(errors.StreamClosed):
        pipeline.check()
    append_at(server, pipeline, sent(pipeline))
    assert (server.content, server.closed, pipeline.closed) == ([b"a"], True, True)
    assert pipeline.next(0.0) is None


def test_the_closing_one_goes_alone() -> None:
    """Of a closed stream, a server recognises nothing but the append that closed it."""
    pipeline, server = a_pipeline(), Server()
    for _ in range(9):
        pipeline.put(b"12", 0.0)
    append_at(server, pipeline, sent(pipeline))
    pipeline.close()
    before = sent(pipeline)
    assert pipeline.next(0.0) is None
    append_at(server, pipeline, before)
    last = sent(pipeline)
    assert (last.closes, len(last.messages)) == (True, 3)
    append_at(server, pipeline, last)
    assert (len(server.content), pipeline.closed) == (9, True)


def test_closing_without_a_message() -> None:
    pipeline, server = a_pipeline(), Server()
    pipeline.close()
    append = sent(pipeline)
    assert pipeline.next(0.0) is None
    pipeline.failed(append, lost(), 0.0)
    server.append(append.epoch, append.seq, append.messages, closes=True)
    append_at(server, pipeline, sent(pipeline, 1.0))
    assert pipeline.closed


@pytest.mark.parametrize(
    "sizes", [(0, 1, 1, 1, 0), (1, 0, 1, 1, 0), (1, 1, 0, 1, 0), (1, 1, 1, 0, 0), (1, 1, 1, 1, -1)]
)
def test_sizes_have_a_sense(sizes: tuple[int, int, int, int, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Sizes(*sizes)
