#!/usr/bin/env python3
"""Usage: make_instruction_counts.py BUILD...

Writes what the CPU libraries of those release builds (build, build-arm) hold into
instruction_counts.json, as the entry of the compiler that made them. Each loop's numbers are
instructions for a block of 32 columns, and stack accesses of the inner loop.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import instruction_counts

path = pathlib.Path(__file__).with_name("instruction_counts.json")
table = json.loads(path.read_text()) if path.exists() else {}
for build in sys.argv[1:]:
    for isa, (compiler, loops) in instruction_counts.measure(build).items():
        table.setdefault(compiler, {})[isa] = loops

with path.open("w") as file:
    file.write("{")
    for i, (compiler, isas) in enumerate(sorted(table.items())):
        file.write(f'{"," if i else ""}\n"{compiler}": {{')
        for j, (isa, loops) in enumerate(sorted(isas.items())):
            lines = ",\n  ".join(f'"{name}": {json.dumps(loops[name])}' for name in sorted(loops))
            file.write(f'{"," if j else ""}\n "{isa}": {{\n  {lines}}}')
        file.write("}")
    file.write("\n}\n")
