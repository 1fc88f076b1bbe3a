"""Reads the #include lines of a source tree and says which break the floors.

The floors: proto (libc, msgpack), kernels (libc, and CUDA in .cu files), engine (kernels, jansson,
pcre2, libcrypto), daemon (engine, proto, libsystemd, libconfig), client (proto; zephctl also
libcurl, zeph-chat also libedit), tests (all). A file may include its own floor, the floors named
beside it and what those may include of zeph, not their libraries: who needs a library says so here.
"""

import pathlib
import re

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]*)[>"]', re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
SOURCES = {".c", ".h", ".cu", ".cuh"}

FLOORS = {
    "proto": {"proto"},
    "kernels": {"kernels"},
    "engine": {"engine", "kernels"},
    "daemon": {"daemon", "engine", "kernels", "proto"},
    "client": {"client", "proto"},
}

LIBRARIES = {
    "msgpack": re.compile(r"msgpack(\.h|/.*)"),
    "jansson": re.compile(r"jansson\.h"),
    "pcre2": re.compile(r"pcre2\.h"),
    "libcrypto": re.compile(r"openssl/.*"),
    "libsystemd": re.compile(r"systemd/.*"),
    "libconfig": re.compile(r"libconfig\.h"),
    "libcurl": re.compile(r"curl/.*"),
    "libedit": re.compile(r"histedit\.h|editline/.*"),
    "CUDA": re.compile(r"cuda.*\.h|cublas.*\.h|mma\.h|nvtx.*|nvml\.h|cooperative_groups.*"),
}

USES = {
    "proto": {"msgpack"},
    "kernels": set(),
    "engine": {"jansson", "pcre2", "libcrypto"},
    "daemon": {"msgpack", "libsystemd", "libconfig"},
    "client": {"msgpack"},
}

# The C library, POSIX, Linux and the compiler's intrinsics: whatever an operating system's own
# headers are called. A header that is in no list is a violation, so that a new library is a
# decision and not an accident.
LIBC = re.compile(r"""
    (assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|stdalign
    |stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|stdnoreturn|string|tgmath|threads|time|uchar
    |wchar|wctype|aio|byteswap|cpuid|dirent|dlfcn|elf|endian|err|fcntl|fnmatch|ftw|getopt|glob|grp
    |ifaddrs|immintrin|x86intrin|arm_neon|langinfo|libgen|link|malloc|netdb|paths|poll|pthread|pty
    |pwd|sched|search|semaphore|spawn|stdio_ext|strings|syslog|termios|ucontext|unistd|utmp|wordexp
    |alloca|features|fpu_control)\.h
    |(sys|linux|asm|arpa|net|netinet|bits)/.*\.h
    """, re.VERBOSE)


def allowed_libraries(floor, path):
    libraries = set(USES[floor])
    if floor == "kernels" and path.suffix in {".cu", ".cuh"}:
        libraries.add("CUDA")
    if floor == "client" and path.stem.startswith("zephctl"):
        libraries.add("libcurl")
    if floor == "client" and path.stem.startswith("zeph-chat"):
        libraries.add("libedit")
    return libraries


def violation(root, floor, path, kind, name):
    """A sentence, or None where the include is fine."""
    if (root / name).is_file() and name.split("/")[0] in FLOORS | {"tests": None}:
        if name.split("/")[0] in FLOORS[floor]:
            return None
        return f"{floor} may not include {name}"
    if kind == '"':
        return f'"{name}" is no file of this project, counted from its top folder'
    for library, pattern in LIBRARIES.items():
        if pattern.fullmatch(name):
            if library in allowed_libraries(floor, path):
                return None
            return f"{floor} may not use {library} (<{name}>)"
    if LIBC.fullmatch(name):
        return None
    return f"<{name}> belongs to no library that {floor} may use"


def violations(root):
    """All of them, as "path:line: sentence", in order."""
    root = pathlib.Path(root)
    found = []
    for floor in FLOORS:
        for path in sorted((root / floor).rglob("*")):
            if path.suffix not in SOURCES:
                continue
            text = path.read_text(encoding="utf-8")
            text = COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
            for match in INCLUDE.finditer(text):
                sentence = violation(root, floor, path, match.group(1), match.group(2))
                if sentence:
                    line = text.count("\n", 0, match.start()) + 1
                    found.append(f"{path.relative_to(root)}:{line}: {sentence}")
    return found
