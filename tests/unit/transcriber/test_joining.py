"""Test which requests are joined, and that each gets its own outputs or its own error."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ServerUnreachableError
from transcriber.buckets import Arrays, AudioBatch
from transcriber.joining import Joiner, Outputs
from transcriber.recogniser import RequestError

_TIMEOUT_S = 10.0
_NUMBERS = itertools.count()


def audio(length: int, value: float = 1.0, items: int = 1) -> Arrays:
    """Return the inputs of requests for audio of one length, each sample with one value."""
    samples = [np.full(length, value, dtype=np.float32) for _ in range(items)]
    return {
        "audio": AudioBatch(items=samples, size=length),
        "audio_lengths": np.full(items, length, dtype=np.int32),
        "requests": np.full(items, next(_NUMBERS)),
    }


def array_of(value: Any) -> np.ndarray[Any, Any]:
    """Return a tensor as the server gets it."""
    parts = list(value.parts()) if isinstance(value, AudioBatch) else [value]
    found: np.ndarray[Any, Any] = np.concatenate(parts).reshape(value.shape)
    return found


class Server:
    """Return the sums of the items; hold the requests until they are let go."""

    def __init__(self, fail: Callable[[int], None] = lambda _: None) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.most_at_a_time = 0
        self.open = threading.Event()
        self.requests = 0
        """How many requests are in those that arrived."""
        self._fail, self._lock, self._running = fail, threading.Lock(), 0

    def send(self, inputs: Arrays) -> Outputs:
        found = {name: array_of(value) for name, value in inputs.items()}
        with self._lock:
            self.shapes.append(found["audio"].shape)
            self.requests += len(set(found["requests"].tolist()))
            self._running += 1
            self.most_at_a_time = max(self.most_at_a_time, self._running)
        assert self.open.wait(_TIMEOUT_S)
        with self._lock:
            self._running -= 1
        self._fail(len(found["audio"]))
        return {"sums": found["audio"].sum(axis=1), "lengths": found["audio_lengths"][:, None]}


@contextmanager
def requests(joiner: Joiner, server: Server, *inputs: Arrays) -> Iterator[list[Future[Outputs]]]:
    """Send requests from threads of their own, one after the other, and let the server go when all of them wait."""
    with ThreadPoolExecutor(max(1, len(inputs))) as pool:
        futures = []
        for number, each in enumerate(inputs, start=1):
            futures.append(pool.submit(joiner.infer, each))
            while server.requests + joiner.waiting < number:
                time.sleep(0)
        server.open.set()
        yield futures


def sums(futures: list[Future[Outputs]]) -> list[list[float]]:
    """Return the sums of the items of each request."""
    return [future.result(_TIMEOUT_S)["sums"].tolist() for future in futures]


def test_requests_that_wait_go_together() -> None:
    server = Server()
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1)
    with requests(joiner, server, *(audio(10, value) for value in range(5))) as futures:
        assert sums(futures) == [[0.0], [10.0], [20.0], [30.0], [40.0]]
    # The first one found the server free.
    assert server.shapes == [(1, 10), (4, 10)]


def test_a_free_server_gets_each_request_at_once() -> None:
    server = Server()
    server.open.set()
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1)
    assert [joiner.infer(audio(10, value))["sums"].tolist() for value in (1.0, 2.0)] == [[10.0], [20.0]]
    assert server.shapes == [(1, 10), (1, 10)]


@pytest.mark.parametrize("at_a_time", [1, 2, 3])
def test_limits_the_requests_on_the_server(at_a_time: int) -> None:
    server = Server()
    joiner = Joiner(server.send, most_items=4, at_a_time=lambda: at_a_time)
    with requests(joiner, server, *(audio(10) for _ in range(at_a_time + 3))) as futures:
        sums(futures)
    assert server.most_at_a_time == at_a_time
    assert server.shapes == [(1, 10)] * at_a_time + [(3, 10)]


def test_a_full_batch_does_not_wait() -> None:
    server = Server()
    joiner = Joiner(server.send, most_items=2, at_a_time=lambda: 1)
    with requests(joiner, server, *(audio(10) for _ in range(5))) as futures:
        assert server.most_at_a_time == 3
        sums(futures)
    assert sorted(server.shapes) == [(1, 10), (2, 10), (2, 10)]


def test_similar_lengths_go_together_and_are_padded() -> None:
    server = Server()
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1)
    lengths = (1, 100, 20, 90, 19, 100)
    with requests(joiner, server, *(audio(length) for length in lengths)) as futures:
        assert sums(futures) == [[length] for length in lengths]
        assert [future.result()["lengths"].tolist() for future in futures] == [[[length]] for length in lengths]
    # The one that has waited longest decides what goes first.
    assert server.shapes == [(1, 1), (3, 100), (2, 20)]


def test_exact_padding_joins_equal_lengths_only() -> None:
    server = Server()
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1, most_padding=1.0)
    with requests(joiner, server, *(audio(length) for length in (1, 100, 99, 100))) as futures:
        sums(futures)
    assert server.shapes == [(1, 1), (2, 100), (1, 99)]


def test_requests_of_several_items() -> None:
    server = Server()
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1)
    with requests(joiner, server, audio(5), audio(5, 1, 3), audio(5, 2, 6), audio(5, 3, 5)) as futures:
        assert sums(futures) == [[5.0], [5.0] * 3, [10.0] * 6, [15.0] * 5]
    assert [len(shape) and shape[0] for shape in server.shapes] == [1, 8, 6]


@pytest.mark.parametrize("error", [RequestError("negative"), MemoryError("negative")])
def test_only_the_bad_request_fails(error: Exception) -> None:
    refused = audio(10, -1.0)

    class Choosy(Server):
        def send(self, inputs: Arrays) -> Outputs:
            found = super().send(inputs)
            if (found["sums"] < 0).any():
                raise error
            return found

    server = Choosy()
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1)
    with requests(joiner, server, audio(10), audio(10, 1.0), refused, audio(10, 2.0)) as futures:
        assert sums([futures[0], futures[1], futures[3]]) == [[10.0], [10.0], [20.0]]
        with pytest.raises(type(error), match="negative"):
            futures[2].result(_TIMEOUT_S)
    assert server.shapes[:2] == [(1, 10), (3, 10)]
    assert sorted(server.shapes[2:]) == [(1, 10)] * 3


def test_an_outage_ends_those_that_wait_too() -> None:
    def fail(_: int) -> None:
        raise ServerUnreachableError("host:8001", "it is away", "Start it")

    server = Server(fail)
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1, most_padding=1.0)
    with requests(joiner, server, audio(1), audio(2), audio(3)) as futures:
        for future in futures:
            with pytest.raises(ServerUnreachableError, match="it is away"):
                future.result(_TIMEOUT_S)
    # Each attempt takes the whole timeout of an outage, so there is one.
    assert server.shapes == [(1, 1)]


def test_goes_on_after_an_outage() -> None:
    errors = [ServerUnreachableError("host:8001", "it is away", "Start it")]

    def fail(_: int) -> None:
        if errors:
            raise errors.pop()

    server = Server(fail)
    server.open.set()
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1)
    with pytest.raises(ServerUnreachableError):
        joiner.infer(audio(1))
    assert joiner.infer(audio(2))["sums"].tolist() == [2.0]


def test_a_defect_reaches_every_request() -> None:
    def fail(_: int) -> None:
        raise KeyError("sums")

    server = Server(fail)
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1)
    with requests(joiner, server, audio(1), audio(2), audio(2)) as futures:
        for future in futures:
            with pytest.raises(KeyError):
                future.result(_TIMEOUT_S)


class _Interrupted(threading.Event):
    """An event whose waiting thread gets a signal."""

    def wait(self, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt


def interrupted(joiner: Joiner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a request from a thread that is interrupted while it waits."""
    with monkeypatch.context() as patch:
        patch.setattr("transcriber.joining.threading.Event", _Interrupted)
        with pytest.raises(KeyboardInterrupt):
            joiner.infer(audio(10, -1.0))


def test_an_interrupted_thread_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1)
    # It would have been the one to send.
    interrupted(joiner, monkeypatch)
    with requests(joiner, server, audio(10, 1.0), audio(10, 2.0)) as futures:
        assert sums(futures) == [[10.0], [20.0]]


def test_an_interrupted_request_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: 1)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(joiner.infer, audio(10, 1.0))
        while not server.requests:
            time.sleep(0)
        interrupted(joiner, monkeypatch)
        assert joiner.waiting == 0
        server.open.set()
        assert sums([first]) == [[10.0]]
    assert server.shapes == [(1, 10)]


def test_more_servers_take_more_requests() -> None:
    server, servers = Server(), [1]
    joiner = Joiner(server.send, most_items=8, at_a_time=lambda: servers[0])
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(joiner.infer, audio(10)) for _ in range(2)]
        while server.requests + joiner.waiting < 2:
            time.sleep(0)
        assert joiner.waiting == 1
        servers[0] = 3
        futures.append(pool.submit(joiner.infer, audio(10)))
        while server.requests < 3:
            time.sleep(0)
        server.open.set()
        assert sums(futures) == [[10.0]] * 3
    assert server.shapes == [(1, 10), (2, 10)]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 3)), min_size=1, max_size=24),
    st.integers(3, 16),
    st.integers(1, 3),
    st.sampled_from([1.0, 1.25, 2.0]),
)
def test_every_request_gets_its_own_outputs(
    sizes: list[tuple[int, int]], most_items: int, at_a_time: int, most_padding: float
) -> None:
    server = Server()
    joiner = Joiner(server.send, most_items=most_items, at_a_time=lambda: at_a_time, most_padding=most_padding)
    inputs = [audio(length, float(number), items) for number, (length, items) in enumerate(sizes)]
    with requests(joiner, server, *inputs) as futures:
        found = sums(futures)
    assert found == [[float(number * length)] * items for number, (length, items) in enumerate(sizes)]
    assert max(shape[0] for shape in server.shapes) <= most_items
    padded = sum(shape[0] * shape[1] for shape in server.shapes)
    assert padded <= most_padding * sum(length * items for length, items in sizes) + 1e-6
