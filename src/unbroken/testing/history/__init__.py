"""Checking what clients saw of a server, crashes included: a list of operations goes in, broken promises come out.

    start, end = "0000000000000001_0000000000000000", "0000000000000001_0000000000000004"
    recorded = [
        Create(client="a", path="/log", invoked=1, completed=2, tail=start),
        Append(client="a", path="/log", invoked=3, completed=4, data=b"one;", tail=end),
        Read(client="b", path="/log", invoked=5, completed=6, start="-1", next_offset=start, up_to_date=True),
    ]
    [violation] = check_history(recorded)  # the append is lost

The promise is linearizability: each operation takes effect at one moment between its invocation and its completion, in
an order that one client at a time could have caused. Deciding that is NP-complete in general. It is cheap here, since a
stream keeps its history: an append that took effect shows for ever where it did.

**Lives.** A creation number is one life of a stream. Whoever is told the tail is told the life, as a tail's offset
carries its stream's own number. A page that ends inside what a fork inherited carries an ancestor's number and counts
as a look at that ancestor, whose bytes have the same positions.

**Contents.** All that was read of a life, laid by position, must agree: bytes never change and never move. An append
that was acknowledged says where it lies: it ends at the tail that its answer reports. What lies between those must be
appends whose outcome is unknown, each at most once. So every byte belongs to one operation, and the order in which
things happened to the life is the order of the bytes.

**Time.** Let F(t) be the furthest position that any operation completed before t has reached, by writing or by seeing
it. Then whoever is invoked at t and reports the tail reports F(t) or more, and whoever is invoked at t and writes,
writes at F(t) or behind. These two lines say all at once that acknowledged appends are not lost, that real-time order
is kept, that reads are monotonic and up to date, and that nothing was seen before it was sent.

**Ends.** A closed life ends in one place. A life whose deletion was acknowledged is not seen by anybody invoked later,
and one that nobody asked to delete does not vanish. Numbers grow with time over all paths.

**Refusals** change nothing, and those that speak of a state (absent, closed, a gap in a producer's sequence) must not
contradict what is certain.

What is asked of the recording: every writer of the streams is in it; bodies are unique, and none is a part of another;
time is one counter. An operation whose outcome is unknown is completed when it is certain that it does nothing
any more: when the server that it was sent to is known to be dead. Lifetimes (TTL, expiry) are not known here.
"""

from unbroken.testing.history.operations import Append, Create, Delete, Operation, Outcome, Read, Rule, Violation
from unbroken.testing.history.rules import check_history

__all__ = ["Append", "Create", "Delete", "Operation", "Outcome", "Read", "Rule", "Violation", "check_history"]
