"""The inner loops of the CPU kernels take as many instructions as they took, within 5%, and spill no
registers where they spilled none. The counts are in golden/instruction_counts.json, by compiler:
they are the compiler's as much as ours."""

import json
import pathlib

import pytest

import instruction_counts

TABLE = json.loads(
    (pathlib.Path(__file__).parent / "golden/instruction_counts.json").read_text())
MARGIN = 0.05
RENEW = "if that is meant: tests/golden/make_instruction_counts.py BUILD"


@pytest.fixture(scope="module")
def measured(build):
    options = json.loads((build / "meson-info/intro-buildoptions.json").read_text())
    options = {o["name"]: o["value"] for o in options}
    if options["buildtype"] != "release" or options["b_sanitize"] != "none":
        pytest.skip(f"{build} is no release build")
    return instruction_counts.measure(build)


def test_the_table_has_debian_12_s_compiler():
    assert TABLE["gcc 12.2.0"].keys() == instruction_counts.SETS.keys()


def test_every_loop_is_within_the_margin(measured):
    sets = set(measured)
    assert sets in ({"avx2", "avxvnni", "avx512"}, {"neon"}), "a library is missing"
    wrong = []
    for isa, (compiler, loops) in measured.items():
        if compiler not in TABLE:
            pytest.skip(f"no counts of {compiler} are known, only of {', '.join(TABLE)}: "
                        f"tests/golden/make_instruction_counts.py adds them")
        known = TABLE[compiler][isa]
        assert loops.keys() == known.keys(), f"{isa} has other loops; {RENEW}"
        for name, (instructions, spills) in loops.items():
            was, spilled = known[name]
            if abs(instructions - was) > MARGIN * was:
                wrong.append(f"{isa} {name}: {instructions} instructions a block, was {was}")
            if spills > spilled * (1 + MARGIN):
                wrong.append(f"{isa} {name}: {spills} stack accesses, was {spilled}")
    assert not wrong, "\n".join([*wrong, RENEW])


def test_loops_are_found_by_their_jumps_backwards():
    text = """
0000000000000000 <q4_k_1.isra.0>:
   0:\tvmovdqu64 (%rsp),%zmm2
   4:\tjmp    c <q4_k_1.isra.0+0xc>
   8:\tvcvtph2ps (%rbx),%zmm9
   c:\tvpandd (%rdx),%zmm2,%zmm0
""" + "".join(f"  {16 + 4 * i:x}:\tvpdpbusd %zmm3,%zmm0,%zmm1\n" for i in range(8)) + """
  30:\tvmovups %zmm1,0x40(%rsp)
  34:\tjb     c <q4_k_1.isra.0+0xc>
  38:\tjb     8 <q4_k_1.isra.0+0x8>
  3c:\tret
"""
    [(name, columns, body)] = instruction_counts.functions(text)
    assert (name, columns, len(body)) == ("q4_k_1", 1, 16)
    # 11 in a block's loop with one spill, 2 more for a record of 8 blocks
    assert instruction_counts.count(name, body, "vpdpbusd", 8) == [11.2, 1]
