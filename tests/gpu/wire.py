"""MessagePack and a zephd of one's own, with nothing but Python's library: the machine that has the
card may have no packages."""

import itertools
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time


def pack(value):
    if value is None:
        return b"\xc0"
    if value is True or value is False:
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        if 0 <= value < 128:
            return bytes([value])
        return struct.pack(">Bq", 0xd3, value)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xcb, value)
    if isinstance(value, str):
        data = value.encode()
        return struct.pack(">BI", 0xdb, len(data)) + data
    if isinstance(value, (list, tuple)):
        return struct.pack(">BI", 0xdd, len(value)) + b"".join(map(pack, value))
    if isinstance(value, dict):
        return struct.pack(">BI", 0xdf, len(value)) + b"".join(
            pack(k) + pack(v) for k, v in value.items())
    raise TypeError(type(value))


NUMBERS = {0xca: ">f", 0xcb: ">d", 0xcc: ">B", 0xcd: ">H", 0xce: ">I", 0xcf: ">Q", 0xd0: ">b",
           0xd1: ">h", 0xd2: ">i", 0xd3: ">q"}
LENGTHS = {0xc4: ">B", 0xc5: ">H", 0xc6: ">I", 0xd9: ">B", 0xda: ">H", 0xdb: ">I", 0xdc: ">H",
           0xdd: ">I", 0xde: ">H", 0xdf: ">I"}


class Short(Exception):
    """The bytes end before the value does."""


def take(data, at, form):
    size = struct.calcsize(form)
    if at + size > len(data):
        raise Short
    return struct.unpack_from(form, data, at)[0], at + size


def unpack(data, at=0):
    """(value, position after it); Short where the value is not all there."""
    kind, at = take(data, at, ">B")
    if kind < 0x80:
        return kind, at
    if kind >= 0xe0:
        return kind - 256, at
    if kind in (0xc0, 0xc2, 0xc3):
        return {0xc0: None, 0xc2: False, 0xc3: True}[kind], at
    if kind in NUMBERS:
        return take(data, at, NUMBERS[kind])
    if kind in LENGTHS:
        n, at = take(data, at, LENGTHS[kind])
    elif kind < 0x90:
        n, kind = kind & 15, 0xdf
    elif kind < 0xa0:
        n, kind = kind & 15, 0xdd
    elif kind < 0xc0:
        n, kind = kind & 31, 0xdb
    else:
        raise ValueError(f"MessagePack type {kind:#x}")
    if kind <= 0xdb:
        if at + n > len(data):
            raise Short
        text = bytes(data[at:at + n])
        return (text if kind <= 0xc6 else text.decode()), at + n
    items = []
    for _ in range(n if kind <= 0xdd else 2 * n):
        item, at = unpack(data, at)
        items.append(item)
    return (items if kind <= 0xdd else dict(zip(items[::2], items[1::2]))), at


class Refused(Exception):
    """The error string of a response."""


class Client:
    """One connection, one request at a time or several; notifications are kept in order."""

    def __init__(self, path, timeout=600):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self.numbers = itertools.count()
        self.data = b""
        self.answers = {}
        self.notifications = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, method, **params):
        number = next(self.numbers)
        self.socket.sendall(pack([0, number, method, [params]]))
        return number

    def receive(self):
        while True:
            try:
                message, end = unpack(self.data)
            except Short:
                more = self.socket.recv(1 << 16)
                if not more:
                    raise EOFError("zephd closed the connection") from None
                self.data += more
                continue
            self.data = self.data[end:]
            return message

    def wait(self, number):
        while number not in self.answers:
            message = self.receive()
            if message[0] == 1:
                self.answers[message[1]] = message[2:]
            else:
                self.notifications.append(message[1:])
        error, result = self.answers.pop(number)
        if error is not None:
            raise Refused(error)
        return result

    def call(self, method, **params):
        return self.wait(self.send(method, **params))


class Zephd:
    def __init__(self, program, model, *options, seconds=300):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="zephd-"))
        self.path = self.directory / "zeph.sock"
        conf = self.directory / "zephd.conf"
        conf.write_text("")
        conf.chmod(0o600)
        self.log = self.directory / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [str(program), "--config", str(conf), "--model", str(model), "--socket",
                 str(self.path), *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + seconds
        while True:
            try:
                self.connect().__exit__()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    said = self.log.read_text(errors="replace")
                    self.__exit__()
                    raise RuntimeError(f"zephd did not start: {said}") from None
                time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def connect(self):
        return Client(self.path)
