"""Reads what ptxas says of each kernel (-Xptxas -v, by nvcc or clang) and holds it to limits."""

import dataclasses
import re

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\d+)a?'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


@dataclasses.dataclass
class Kernel:
    name: str       # as the assembler knows it
    arch: str       # "sm_90"
    registers: int
    stack: int      # bytes of local memory, arrays that are indexed at run time included
    spills: int     # bytes that did not fit in registers, stored and loaded
    shared: int     # bytes, static


@dataclasses.dataclass
class Limit:
    pattern: str    # of the kernel's name
    registers: int
    spills: int
    archs: str = r"sm_\d+"
    reason: str = ""


def parse(text):
    """The kernels of one report, in its order. Damage is an error, not a kernel less."""
    kernels, name, arch, frame = [], None, None, None
    for line in text.splitlines():
        if match := ENTRY.search(line):
            if name:
                raise ValueError(f"{name} for {arch}: no registers are told")
            name, arch = match.groups()
            frame = None
        elif match := SPILLS.search(line):
            frame = frame or tuple(int(n) for n in match.groups())  # of called functions later
        elif (match := USED.search(line)) and name:
            if frame is None:
                raise ValueError(f"{name} for {arch}: no stack frame is told")
            shared = SHARED.search(line)
            kernels.append(Kernel(name, arch, int(match.group(1)), frame[0], frame[1] + frame[2],
                                  int(shared.group(1)) if shared else 0))
            name = None
    if name:
        raise ValueError(f"{name} for {arch}: no registers are told")
    return kernels


def limit_of(kernel, limits):
    """The first limit that is this kernel's."""
    for limit in limits:
        if re.search(limit.pattern, kernel.name) and re.fullmatch(limit.archs, kernel.arch):
            return limit
    raise ValueError(f"no limit for {kernel.name} on {kernel.arch}")


def excesses(kernels, limits):
    """A sentence for each kernel that takes more than its limit."""
    found = []
    for k in kernels:
        limit = limit_of(k, limits)
        if k.registers > limit.registers:
            found.append(f"{k.name} on {k.arch}: {k.registers} registers, limit {limit.registers}")
        if k.spills > limit.spills:
            found.append(f"{k.name} on {k.arch}: {k.spills} bytes spilled, limit {limit.spills}")
    return found
