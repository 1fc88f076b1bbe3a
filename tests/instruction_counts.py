"""How many instructions the inner loops of the CPU kernels take, read from the disassembly.

Speed on a shared machine wanders by a third; this does not. It needs no processor with the
instruction set in question either. kernels/cpu/kernel_quants.h makes each loop nest a function
NAME_COLUMNS. A loop is what a jump backwards spans; its dot products tell how many blocks of 32
columns one turn takes: eight vectors of four bytes for each column of activations.
"""
import pathlib
import re
import subprocess

# Instruction set: the dot product's name, registers that make up sixteen lanes, objdump.
SETS = {
    "avx2": ("vpmaddubsw", 2, "objdump"),
    "avxvnni": ("vpdpbusd", 2, "objdump"),
    "avx512": ("vpdpbusd", 1, "objdump"),
    "neon": ("sdot", 4, "aarch64-linux-gnu-objdump"),
}
# Blocks that have scales in common, by how a loop's name goes on: kernels/cpu/layout.h
RECORDS = {"d": 2, "nl": 2, "dm": 1, "k": 8, "xs": 8}

FUNCTION = re.compile(r"^[0-9a-f]+ <((?:tiles|i?q\d)_\w+_(\d))(?:\.\w+)*>:$")
LINE = re.compile(r"^ *([0-9a-f]+):\t(.*)$")
JUMP = re.compile(r"^(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\s.*?\b([0-9a-f]+) <")


def functions(text):
    """(name, columns, [(address, instruction)]) of each loop nest."""
    name = None
    for line in text.splitlines():
        if line.endswith(">:"):
            if name:
                yield name, columns, body
            name = None
            if m := FUNCTION.match(line):
                name, columns, body = m[1], int(m[2]), []
        elif name and (m := LINE.match(line)):
            body.append((int(m[1], 16), re.sub(r"\s+", " ", m[2].removeprefix("{vex} ")).strip()))
    if name:
        yield name, columns, body


def loops(body):
    """[(first, last)] addresses, the innermost first."""
    ends = {}
    for address, instruction in body:
        if (m := JUMP.match(instruction)) and body[0][0] <= int(m[1], 16) <= address:
            ends[int(m[1], 16)] = address
    return sorted(ends.items(), key=lambda loop: loop[1] - loop[0])


def on_stack(body):
    """What an instruction that spills says."""
    if any(re.match(r"mov %rsp,%rbp$", i) for _, i in body):
        return re.compile(r"\(%r[sb]p")
    return re.compile(r"\(%rsp|\[sp\b|\[x29\b")


def count(name, body, dot, dots_of_block):
    """Instructions for a block of 32 columns, and stack accesses of the inner loop."""
    found, fills = [], []  # (first, last, instructions) with dot products, and without
    for first, last in loops(body):
        inside = [i for a, i in body if first <= a <= last]
        has_dots = any(i.split()[0] == dot for i in inside)
        (found if has_dots else fills).append((first, last, inside))
    first, last, inner = found[0]
    if not all(f <= first and last <= l for f, l, _ in found):
        raise ValueError(f"{name}: two inner loops with dot products")
    blocks = sum(i.split()[0] == dot for i in inner) / dots_of_block
    each = len(inner) / blocks
    record = 1 if name.startswith("tiles") else RECORDS[name.split("_")[1]]
    if blocks < record:  # what is done once for all of them, and in a loop for each of them
        first, last, outer = found[1]
        each += (len(outer) - len(inner)) / record
        each += sum(len(i) * (record - 1) / record for f, l, i in fills if first <= f and l <= last)
    stack = on_stack(body)
    return [round(each, 1), sum(bool(stack.search(i)) for i in inner)]


def compiler(library, objdump):
    """Such as "gcc 12.2.0"."""
    text = subprocess.run([objdump.replace("objdump", "readelf"), "-p", ".comment", library],
                          check=True, capture_output=True, text=True).stdout
    name = re.search(r"^ +\[ *[0-9a-f]+\] +(.+)$", text, re.MULTILINE)[1]
    return re.sub(r"^GCC: .* (\d+\.\d+\.\d+)$", r"gcc \1", name)


def measure(build):
    """{instruction set: (compiler, {loop: [instructions, spills]})} of the build's libraries."""
    result = {}
    for isa, (dot, registers, objdump) in SETS.items():
        library = pathlib.Path(build, f"kernels/cpu/libzeph-cpu-{isa}.a")
        if not library.exists():
            continue
        text = subprocess.run([objdump, "-d", "--no-show-raw-insn", library], check=True,
                              capture_output=True, text=True).stdout
        result[isa] = compiler(library, objdump), {
            name: count(name, body, dot, 8 * columns * registers)
            for name, columns, body in functions(text)}
    return result
