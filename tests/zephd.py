"""A zephd of one's own, and a client of it made of a socket and msgpack."""

import itertools
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import msgpack


class Refused(Exception):
    """The error string of a response: "E_PARAMS: ..."."""

    @property
    def name(self):
        return str(self).split(":", 1)[0]


class Client:
    """One connection. Responses may come in any order; notifications are kept by request id."""

    def __init__(self, path, timeout=60):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self.unpacker = msgpack.Unpacker(raw=False, max_buffer_size=1 << 30)
        self.numbers = itertools.count()
        self.responses = {}
        self.notifications = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, method, **params):
        """Sends a request and returns its id."""
        number = next(self.numbers)
        self.socket.sendall(msgpack.packb([0, number, method, [params]]))
        return number

    def receive(self):
        """The next message of any kind; EOFError at the end of the stream."""
        while True:
            for message in self.unpacker:
                return message
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self.unpacker.feed(data)

    def wait(self, number):
        """The result of a request; what comes before it is kept."""
        while number not in self.responses:
            message = self.receive()
            if message[0] == 1:
                self.responses[message[1]] = message[2:]
            else:
                self.notifications.append(message[1:])
        error, result = self.responses.pop(number)
        if error is not None:
            raise Refused(error)
        return result

    def call(self, method, **params):
        return self.wait(self.send(method, **params))


class Zephd:
    """Runs build/daemon/zephd in the foreground on a socket in a directory of its own."""

    def __init__(self, build, model, *options, config="", environment=None, seconds=120):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="zephd-"))
        self.socket = self.directory / "zeph.sock"
        conf = self.directory / "zephd.conf"
        conf.write_text(config)
        conf.chmod(0o600)
        self.log_path = self.directory / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [build / "daemon" / "zephd", "--config", conf, "--model", model, "--socket",
                 self.socket, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "XDG_STATE_HOME": str(self.directory / "state"),
                     "XDG_CACHE_HOME": str(self.directory / "cache"), **(environment or {})})
        end = time.monotonic() + seconds
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                self.process.wait()
                said = self.log()
                shutil.rmtree(self.directory)
                raise RuntimeError(f"zephd did not start: {said}")
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def listens(self):
        """The file is there from bind() on, connections are from listen() on."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as s:
            return s.connect_ex(str(self.socket)) == 0

    def log(self):
        return self.log_path.read_text(errors="replace")

    def connect(self, timeout=60):
        return Client(self.socket, timeout)

    def stop(self, seconds=30):
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class as_uid:
    """A connection that the kernel says is another user's."""

    def __init__(self, daemon, uid):
        self.daemon, self.uid = daemon, uid

    def __enter__(self):
        os.chmod(self.daemon.directory, 0o755)
        os.chmod(self.daemon.socket, 0o666)
        os.seteuid(self.uid)
        try:
            self.client = Client(self.daemon.socket)
        finally:
            os.seteuid(0)
        return self.client

    def __exit__(self, *_):
        self.client.socket.close()
