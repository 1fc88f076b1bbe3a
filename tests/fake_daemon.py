"""A daemon that says what a test wants: a Unix socket, msgpack, and one function per connection."""

import pathlib
import socket
import tempfile
import threading
import time

import msgpack


class Peer:
    """One accepted connection, seen from the daemon."""

    def __init__(self, connection):
        self.socket = connection
        self.unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape",
                                         max_buffer_size=1 << 30)
        self.seen = []

    def receive(self):
        """The next message, or None at the end of the stream."""
        while True:
            for message in self.unpacker:
                self.seen.append(message)
                return message
            try:
                data = self.socket.recv(1 << 16)
            except OSError:
                return None
            if not data:
                return None
            self.unpacker.feed(data)

    def send(self, *messages):
        self.socket.sendall(b"".join(
            msgpack.packb(m, unicode_errors="surrogateescape") for m in messages))

    def tokens(self, request, *texts):
        """The texts as token notifications."""
        params = request[3][0]
        for index, text in enumerate(texts):
            self.send([2, "token", [{"id": request[1], "tag": params["tag"], "index": index,
                                     "tokens": [index], "text": text}]])

    def finish(self, request, text, finish="stop", **more):
        self.send([1, request[1], None, result(text, finish, **more)])

    def close(self):
        self.socket.close()


def result(text, finish="stop", **more):
    return {"text": text, "tokens": list(range(len(text))), "finish": finish,
            "usage": {"prompt_tokens": 7, "cached_tokens": 2, "completion_tokens": len(text)},
            "timing": {"queue_ms": 0.5, "prefill_ms": 1.5, "first_token_ms": 2.5, "total_ms": 4,
                       "tokens_per_s": 250.25},
            "receipt": {"model": "ab" * 32, "seed": 5}, **more}


class FakeDaemon:
    """serve(peer, n) runs in a thread of its own for the n-th connection, which its return closes."""

    def __init__(self, serve, backlog=16, accepting=True):
        self.folder = tempfile.TemporaryDirectory(prefix="zeph-fake-")
        self.path = pathlib.Path(self.folder.name) / "zeph.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(backlog)
        self.serve = serve
        self.peers = []
        self.threads = []
        if accepting:
            self.accept()

    def accept(self):
        thread = threading.Thread(target=self.loop, daemon=True)
        thread.start()

    def loop(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            peer = Peer(connection)
            self.peers.append(peer)
            thread = threading.Thread(target=self.run, args=(peer, len(self.peers) - 1),
                                      daemon=True)
            self.threads.append(thread)
            thread.start()

    def run(self, peer, number):
        try:
            self.serve(peer, number)
        except OSError:
            pass  # the client is gone: what that means, the test says
        peer.close()

    def seen(self):
        return [message for peer in self.peers for message in peer.seen]

    def wait_for(self, found, seconds=10):
        """Until a message that `found` likes was received; that message."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for message in self.seen():
                if found(message):
                    return message
            time.sleep(0.005)
        raise AssertionError(f"not seen: {self.seen()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for peer in self.peers:
            peer.close()
        self.folder.cleanup()
