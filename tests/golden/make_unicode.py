#!/usr/bin/env python3
"""Writes engine/unicode_table.c: what Python's str methods know of each character.

    python3 tests/golden/make_unicode.py > engine/unicode_table.c

Chat templates are written for Python's strings, so their upper(), title(), isalpha() and repr()
follow the interpreter that this ran in (Unicode 14 with Python 3.11).
"""
import sys
import unicodedata


def scalars():
    return (c for c in range(0x110000) if not 0xD800 <= c < 0xE000)


def bits(c):
    s = chr(c)
    tests = (s.isprintable(), s.isalpha(), s.isdecimal(), s.isdigit(), s.isnumeric(), s.isupper(),
             s.islower(), unicodedata.category(s) == "Lt")
    return sum(bool(t) << i for i, t in enumerate(tests))


def classes():
    out, last = [], None
    for c in scalars():
        b = bits(c)
        if b != last:
            out.append(c << 8 | b)
            last = b
        if c == 0xD7FF:
            out.append(0xD800 << 8)
            last = 0
    return out


def mappings(function):
    single, several = [], []
    for c in scalars():
        to = function(chr(c))
        if to == chr(c):
            continue
        if len(to) > 1:
            several.append((c, to))
            continue
        delta = ord(to) - c
        run = single[-1] if single else None
        gap = c - run[1] if run else 0
        if run and run[3] == delta and gap <= 2 and gap == (run[2] or gap):
            run[1], run[2] = c, gap
        else:
            single.append([c, c, 0, delta])
    return single, several


def rows(items):
    line = ""
    for item in items:
        if len(line) + len(item) > 91:
            print("\t" + line.rstrip())
            line = ""
        line += item + ", "
    print("\t" + line.rstrip())


def main():
    print("/* Character classes and case mappings of Unicode %s, written by"
          % unicodedata.unidata_version)
    print(" * tests/golden/make_unicode.py: change that one. Read by unicode.c alone. */")
    print('#include "engine/unicode_table.h"\n')
    print("// clang-format off")
    table = classes()
    print("/* First character of each run << 8 | its classes. */")
    print("const uint32_t unicode_classes[UNICODE_CLASSES] = {")
    rows(["%#x" % v for v in table])
    print("};\n")
    sizes = {"UNICODE_CLASSES": len(table)}
    for name, function in (("upper", str.upper), ("lower", str.lower), ("title", str.title)):
        single, several = mappings(function)
        if name == "title":
            upper, upper_several = mappings(str.upper)
            same = {tuple(r) for r in upper}
            plain = {}
            for first, last, step, delta in upper:
                for c in range(first, last + 1, step or 1):
                    plain[c] = c + delta
            mine = {}
            for first, last, step, delta in single:
                for c in range(first, last + 1, step or 1):
                    mine[c] = c + delta
            # Only where the titlecase is not the uppercase.
            changed = sorted(c for c in set(plain) | set(mine)
                             if plain.get(c, c) != mine.get(c, c) and c not in dict(several))
            single = [[c, c, 0, mine.get(c, c) - c] for c in changed]
            del same, upper_several
        print("const struct unicode_run unicode_%s[UNICODE_%s] = {" % (name, name.upper()))
        rows(["{%d, %d, %d, %d}" % (a, b, step or 1, d) for a, b, step, d in single])
        print("};\n")
        sizes["UNICODE_" + name.upper()] = len(single)
        print("const struct unicode_several unicode_%s_several[UNICODE_%s_SEVERAL] = {"
              % (name, name.upper()))
        rows(["{0x%x, {%s}}" % (c, ", ".join("0x%x" % ord(x) for x in to)) for c, to in several])
        print("};\n")
        sizes["UNICODE_%s_SEVERAL" % name.upper()] = len(several)
    print("// clang-format on")
    with open("engine/unicode_table.h", "w") as header:
        header.write("/* The tables of unicode_table.c, written by tests/golden/make_unicode.py. */\n"
                     "#pragma once\n\n#include <stdint.h>\n\n")
        width = max(len(name) for name in sizes)
        for name, size in sizes.items():
            header.write("#define %-*s %d\n" % (width, name, size))
        header.write("""
/* first, first + step … last map to themselves + delta. */
struct unicode_run {
	uint32_t first, last, step;
	int32_t delta;
};

/* One character that maps to several; 0 ends them. */
struct unicode_several {
	uint32_t code, to[3];
};

extern const uint32_t unicode_classes[UNICODE_CLASSES];
""")
        for name in ("upper", "lower", "title"):
            header.write("extern const struct unicode_run unicode_%s[UNICODE_%s];\n"
                         % (name, name.upper()))
            header.write("extern const struct unicode_several unicode_%s_several"
                         "[UNICODE_%s_SEVERAL];\n" % (name, name.upper()))


if __name__ == "__main__":
    sys.exit(main())
