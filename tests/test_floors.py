"""The floors hold: no folder includes what its floor may not use; and the checker sees it if so."""

import pytest

import floors
from conftest import REPOSITORY


def test_the_tree_keeps_its_floors():
    assert floors.violations(REPOSITORY) == []


def test_every_floor_was_looked_at():
    for floor in floors.FLOORS:
        assert list((REPOSITORY / floor).rglob("*.c")), floor


@pytest.fixture
def tree(tmp_path):
    for name in ("proto/frame.h", "kernels/backend.h", "engine/engine.h", "daemon/server.h",
                 "client/zeph.h", "tests/shim.h"):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text("#pragma once\n")
    return tmp_path


@pytest.mark.parametrize("path, line", [
    ("proto/a.c", '#include "engine/engine.h"'),
    ("proto/a.c", '#include "kernels/backend.h"'),
    ("proto/a.c", "#include <systemd/sd-event.h>"),
    ("proto/a.c", "#include <libconfig.h>"),
    ("kernels/a.c", '#include "engine/engine.h"'),
    ("kernels/a.c", "#include <msgpack.h>"),
    ("kernels/a.c", "#include <cuda_runtime.h>"),
    ("kernels/cpu/a.c", "#include <openssl/evp.h>"),
    ("kernels/a.cu", "#include <jansson.h>"),
    ("engine/a.c", '#include "proto/frame.h"'),
    ("engine/a.c", "#include <msgpack.h>"),
    ("engine/a.h", "#include <systemd/sd-daemon.h>"),
    ("engine/a.c", '#include "daemon/server.h"'),
    ("engine/a.c", '#include "tests/shim.h"'),
    ("daemon/a.c", "#include <curl/curl.h>"),
    ("daemon/a.c", "#include <pcre2.h>"),
    ("daemon/a.c", '#include "client/zeph.h"'),
    ("client/a.c", '#include "engine/engine.h"'),
    ("client/zeph.c", "#include <curl/curl.h>"),
    ("client/zephctl.c", "#include <histedit.h>"),
    ("client/zeph-chat.c", "#include <curl/curl.h>"),
    ("client/a.c", "#include <systemd/sd-bus.h>"),
    ("engine/a.c", "#include <glib.h>"),
    ("engine/a.c", '#include "engine.h"'),
    ("engine/a.c", '#  include\t"proto/frame.h"'),
    ("engine/sub/a.c", '#include "../proto/frame.h"'),
])
def test_a_planted_violation_is_found(tree, path, line):
    file = tree / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"/* why */\n\n{line}\n")
    found = floors.violations(tree)
    assert len(found) == 1 and found[0].startswith(f"{path}:3: "), found


@pytest.mark.parametrize("path, line", [
    ("proto/a.c", "#include <msgpack.h>"),
    ("proto/a.c", '#include "proto/frame.h"'),
    ("kernels/a.c", "#include <immintrin.h>"),
    ("kernels/a.cu", "#include <cuda_runtime.h>"),
    ("kernels/a.cu", "#include <cublasLt.h>"),
    ("engine/a.c", '#include "kernels/backend.h"'),
    ("engine/a.c", "#include <pcre2.h>"),
    ("engine/a.c", "#include <openssl/evp.h>"),
    ("daemon/a.c", '#include "engine/engine.h"'),
    ("daemon/a.c", '#include "proto/frame.h"'),
    ("daemon/a.c", "#include <systemd/sd-event.h>"),
    ("client/a.c", '#include "proto/frame.h"'),
    ("client/zephctl-pull.c", "#include <curl/curl.h>"),
    ("client/zeph-chat.c", "#include <histedit.h>"),
    ("client/a.c", "#include <sys/socket.h>"),
    ("engine/a.c", '/* once: #include "proto/frame.h" */'),
    ("engine/a.c", '/*\n#include "proto/frame.h"\n*/'),
])
def test_what_a_floor_may_include_is_let_through(tree, path, line):
    (tree / path).write_text(line + "\n")
    assert floors.violations(tree) == []
