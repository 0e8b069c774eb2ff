"""Which streams the proxy need not read to know what they took."""

from __future__ import annotations

import json

import pytest
from picking import Picking

from integration.picker import Ask, End, Usage
from integration.picker.bodies import body_of, kind_of, usage_on_demand
from integration.picker.params import PickerParams
from integration.picker.reading import Reader
from integration.picker.sampling import Watched
from integration.picker.unread import EVERY, Unread

PATH = "/v1/chat/completions"
MARK = "u"


def body(**more):
    return body_of(kind_of(PATH), {"stream": True, "messages": [{"content": "hi"}], **more})


class Talk:
    """A picker that reads requests of streams, and lets each end."""

    def __init__(self):
        self.p = Picking(workers=1, slots=64)
        self.unread = Unread(MARK)
        self.p.core.listeners.append(self.unread)
        self.count = 0

    def named(self, path=PATH, **more):
        self.count += 1
        return self.unread.named(f"r{self.count}", path, body(**more))

    def ended(self, name, usage=None, end=End.FINISHED):
        self.p.request(name)
        self.p.run(0.0)
        self.p.core.ended(name, end, usage)

    def read(self, usage=None, **more):
        """Let one come and end as engines would have it; tell whether it was read."""
        name = self.named(**more)
        read = not name.endswith(MARK)
        self.ended(name, usage if read else None)
        return read


def test_all_are_read_until_one_has_ended_without_a_word():
    talk = Talk()
    names = [talk.named() for _ in range(5)]
    assert not any(name.endswith(MARK) for name in names)
    for end in (End.DISCONNECTED, End.RESET):
        # Those had no chance to say it.
        talk.ended(names.pop(), end=end)
    assert talk.unread.unasked is None
    talk.ended(names.pop())
    assert talk.unread.unasked is False
    assert talk.named().endswith(MARK)


def test_one_of_so_many_is_read_all_the_same():
    talk = Talk()
    assert talk.read()
    assert [talk.read() for _ in range(3 * EVERY)].count(True) == 3


def test_once_it_came_unasked_all_are_read_for_good():
    talk = Talk()
    talk.read()
    said = [talk.read(Usage(3, 5)) for _ in range(4 * EVERY)]
    # The first that is read says so.
    assert said.count(False) == EVERY - 1
    assert all(said[EVERY:])
    talk.read()
    assert talk.unread.unasked is True


def test_what_asks_or_always_says_it_is_read():
    talk = Talk()
    talk.read()
    for _ in range(2 * EVERY):
        assert talk.read(stream_options={"include_usage": True})
        assert talk.read(stream=False)
        assert talk.read(path="/v1/messages")
        assert talk.read(path="/v1/responses")
    # Nothing of those tells what comes unasked.
    assert talk.read(Usage(3, 5), stream_options={"include_usage": True})
    assert talk.unread.unasked is False


@pytest.mark.parametrize("options", [None, [], "x", {}, {"include_usage": 1}])
def test_what_does_not_ask_as_the_api_has_it_does_not_ask(options):
    assert not body(stream_options=options).include_usage


def test_paths_whose_streams_must_be_asked():
    assert all(map(usage_on_demand, ["/v1/completions", PATH, "/x/v1/completions/?a=/messages"]))
    assert not any(
        map(usage_on_demand, ["/v1/messages", "/v1/responses", "/v1/messages?completions"])
    )


def test_what_was_read_and_then_asked_for_of_nobody_is_forgotten():
    talk = Talk()
    names = [talk.named() for _ in range(3000)]
    talk.ended(names[0])
    assert talk.unread.unasked is None
    talk.ended(names[-1])
    assert talk.unread.unasked is False


def test_a_stream_may_be_looked_at_and_not_read():
    watched, unread = Watched(8, "w"), Unread(MARK)
    unread.unasked = False
    reader = Reader(PickerParams(), watched=watched, unread=unread)
    content = json.dumps({"prompt": "hi", "stream": True}).encode()
    asks = [reader.read("POST", "/v1/completions", content) for _ in range(2)]
    assert all(isinstance(ask, Ask) and ask.name.endswith("wu") for ask in asks)
