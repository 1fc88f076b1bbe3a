"""Small templates, each about one thing of the language. What each gives is what jinja2 gives.

They see `messages`: a system's "Be brief.", a user's " Grüße, ǅ ß 42\\n", an assistant's "Hi</s>"."""


def shown(*expressions):
    return ["{{ " + expression + " }}" for expression in expressions]


STRINGS = ["''", "'a'", "'  a b  c '", "'aXbXc'", "'Hello World'", "'don\\'t STOP-me (now) [ok]'",
           "'ÀÉ ß ǆ ﬁ ΑΣ ı İ'", "'a\\nb\\r\\nc\\x0bd\\u2028e'", "'0012'", "' -3_0 '", "'½²'",
           "'tab\\there'", "messages[1].content", "'🙂é'", "'\\x00x'"]

STRING_METHODS = [
    "strip()", "lstrip()", "rstrip()", "strip('a ')", "lstrip('Hé')", "rstrip('c ')", "strip(none)",
    "strip('')", "upper()", "lower()", "title()", "capitalize()", "swapcase()", 
    "split()", "split(none)", "split('X')", "split(' ')", "split(' ', 1)", "split(none, 1)",
    "split(maxsplit=1)", "split(sep='X', maxsplit=-1)", "rsplit('X', 1)", "rsplit(none, 1)",
    "rsplit()", "splitlines()", "splitlines(true)", "splitlines(keepends=true)", "split('')",
    "startswith('a')", "startswith(('H', ' '))", "startswith('')", "startswith('b', 2)",
    "startswith('', 99)", "startswith('e', 1, 2)", "endswith('c')", "endswith('c ', -3)",
    "endswith(('d', 'c'))", "find('X')", "find('')", "find('b', 3)", "find('', 99)", "rfind('X')",
    "rfind('X', 0, 2)", "index('a')", "rindex('a')", "count('X')", "count('')", "count('a', 1)",
    "replace('X', '--')", "replace('X', '--', 1)", "replace('', '.')", "replace('', '.', 2)",
    "replace('a', '')", "replace('X', '-', -1)", "join(['1', '2'])",
    "join('123')", "join([])", "join([1])", "partition('X')", "rpartition('X')", "partition(' ')",
    "removeprefix('a')", "removesuffix('c')", "zfill(6)", "zfill(-1)", "ljust(8)", "ljust(8, '.')",
    "rjust(8, 'é')", "center(9)", "center(10, '*')", "center(9, 'ab')", "isalpha()", "isdigit()",
    "isdecimal()", "isnumeric()", "isalnum()", "isspace()", "isupper()", "islower()", "istitle()",
    "isascii()", "isprintable()",
    "nosuch()", "nosuch", "upper(1)", "split(1)", "replace('a')", "__class__",
]

FILTERS = [
    "trim", "trim('a ')", "upper", "lower", "title", "capitalize", "length", "count", "string",
    "list", "first", "last", "reverse", "reverse|list", "escape", "e", "forceescape", "safe",
    "replace('a', 'b')", "replace('X', '', 1)", "int", "int(7)", "int(base=16)", "float",
    "float(1.5)", "default('d')", "d('d', true)", "center(20)", "center", "wordcount",
    "truncate(5)", "truncate(5, true)", "truncate(9, false, '…', 0)", "indent", "indent(2, true)",
    "indent('> ', true, true)", "tojson", "tojson(ensure_ascii=true)", "join('-')", "sort",
    "unique|list", "batch(3)|list", "batch(3, '-')|list", "slice(2)|list", "slice(3, '.')|list",
    "max", "min", "select|list", "map('upper')|join", "format(1)", "format({})", "abs", "round", "sum", "items|list", "nosuch",
    "attr('upper') is defined", "groupby(0)|list", "dictsort",
]

NUMBERS = ["0", "1", "-7", "42", "3.5", "-0.0", "2.675", "1e16", "1e15", "1.5e-7", "0.1", "1e17",
           "true", "123456789012345", "1/3", "10000000000000000.0", "100.0", "1e-5", "0.0001"]

NUMBER_FILTERS = [
    "abs", "int", "float", "round", "round(1)", "round(2)", "round(2, 'floor')", "round(1, 'ceil')",
    "round(-1)", "string", "tojson", "length", "list", "upper", "default(3)", "trim", "title",
    "first", "join", "round(0, 'nosuch')", "center(10)",
]

OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "and",
             "or", "in", "not in"]
OPERANDS = ["0", "3", "-7", "2.5", "true", "'ab'", "'3'", "[1, 2]", "(1,)", "{'a': 1}", "none",
            "nosuch"]

TESTS = ["defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number",
         "string", "mapping", "sequence", "iterable", "callable", "odd", "even", "lower", "upper",
         "escaped", "divisibleby(3)", "divisibleby 3", "eq 3", "equalto(3)", "==(3)", "ne 3",
         "lt 3", "lessthan 3", "le 3", "gt 3", "greaterthan 3", "ge 3", "in [3, 'ab']",
         "sameas none", "sameas true", "filter", "test", "not none", "not defined", "nosuch"]
TESTED = ["0", "3", "-6", "2.5", "true", "''", "'ab'", "'AB'", "'upper'", "[]", "[3]", "(3,)",
          "{}", "{'a': 3}", "none", "nosuch", "range(3)", "namespace()", "messages[0].content.upper",
          "dict", "[3]|map('abs')", "{}.items()", "'ǅ'"]

LISTS = ["[3, 1, 2]", "['b', 'A', 'c', 'a']", "[]", "(1, 2)", "[[1, 'x'], [0, 'y']]",
         "[{'n': 2, 'k': 'b'}, {'n': 1, 'k': 'A'}, {'n': 2, 'k': 'a'}]", "[1, 'a']", "[none, 1]",
         "range(5)", "'bca'", "{'b': 1, 'A': 2}", "[true, 1, 1.0, 0]", "messages", "none", "nosuch",
         "3", "[1.5, -2, 0.1]", "[[1, [2, 3]], [4]]", "{'a': 1}.items()"]
LIST_FILTERS = [
    "length", "first", "last", "list", "sort", "sort(true)", "sort(reverse=true)",
    "sort(case_sensitive=true)", "sort(attribute='n')", "sort(attribute='n,k')",
    "sort(attribute=1)|list", "unique|list", "unique(true)|list", "unique(attribute='n')|list",
    "reverse|list", "join", "join(', ')", "join('-', attribute='k')", "join(attribute='k')",
    "join(0)", "max", "min", "max(attribute='n')", "min(case_sensitive=true)", "sum",
    "sum(attribute='n')", "sum(start=10)", "sum(start=[])", "map(attribute='k')|list",
    "map(attribute='q', default='-')|list", "map(attribute='q')|list", "map('string')|list",
    "map('upper')|join('|')", "map('int', 9)|list", "map('replace', 'b', 'X')|list", "map|list",
    "map('nosuch')|list", "select|list", "select('odd')|list", "select('gt', 1)|list",
    "select('nosuch')|list", "reject|list", "reject('string')|list", "selectattr('n')|list",
    "selectattr('n', 'equalto', 2)|list", "selectattr('k', 'in', ['a', 'b'])|map(attribute='n')|list",
    "rejectattr('n', 'gt', 1)|list", "selectattr|list", "selectattr('role', '==', 'user')|list",
    "groupby('n')|list", "groupby('n')|map('first')|list", "groupby('q', default=0)|list",
    "groupby('k')|map('last')|list", "batch(2)|list", "batch(2, 0)|list", "slice(2)|list",
    "slice(2, 'f')|list", "tojson", "tojson(indent=2)", "tojson(indent=2, sort_keys=true)",
    "tojson(separators=(',', ':'))", "string", "items|list", "dictsort", "dictsort(true)",
    "dictsort(by='value')", "dictsort(by='nosuch')", "dictsort(reverse=true)",
    "default('x')", "default('x', true)", "trim", "upper", "wordcount", "int", "indent", "abs",
    "escape", "map(attribute='k', nosuch=1)|list", "join(attribute=1)", "map('attr', 'n')|list",
    "map(attribute='role')|unique|list", "count", "map('length')|list", "map('first')|list",
]

# Filters that show the value itself, which for a generator has its address in it.
SHOWING = ["string", "default", "trim", "upper", "wordcount", "escape"]

SLICES = ["[0]", "[-1]", "[5]", "[-9]", "[1:]", "[:2]", "[:-1]", "[::2]", "[::-1]", "[-2:]", "[2:1]",
          "[4:0:-2]", "[:]", "[::]", "[1:99]", "[-99:2]", "[none:2]", "[true]", "['a']", "[1.5]",
          "[:'a']", "[::0]", "[1:3, 0]", "[nosuch]", "[none]", ".a", ".0", "['0']", "[1, 2]",
          "[(1,)]", "[[1]]", ".a.b", "['upper'] is defined",
          "['items'] is defined"]
SLICED = ["[1, 2, 3, 4, 5]", "'häxé🙂'", "(1, 2, 3)", "range(7)", "{'a': 1, '0': 2, 0: 3}", "none",
          "nosuch", "3", "namespace(a=1)", "{1: 'x', true: 'y', 1.0: 'z'}", "messages"]

TOJSON = [
    "{'a': [1, 2.5, none, true, 'é\"\\\\\\n\\t\\x01\\x7f/<>&\\u2028🙂']}", "{}", "[]", "()", "''", "1e400",
    "-1e400", "{1: 2, true: 3, none: 4, 2.5: 5}", "{(1, 2): 3}", "[[], {}, [{}]]", "range(2)",
    "nosuch", "[nosuch]", "namespace(a=1)", "1e16", "1.0", "{'b': 1, 'a': {'d': 1, 'c': 2}}",
    "messages", "dict", "{}.items()", "'\\x00'", "0.1", "-0.0", "[1]|map('abs')",
]
TOJSON_HOW = ["", "()", "(true)", "(indent=0)", "(indent=2)", "(indent='--')", "(indent=none)",
              "(sort_keys=true)", "(ensure_ascii=true, indent=1)", "(separators=(',', ':'))",
              "(separators=['; ', '= '], indent=1)", "(nosuch=1)", "(indent=-1)",
              "(separators=none)", "(false, 3, none, true)"]

FORMATS = ["'%s' % 'a'", "'%s %s' % (1, 'b')", "'%5d|%-5d|%05d|%+d|% d' % (1, 2, 3, 4, 5)",
           "'%.2f' % 2.675", "'%8.3f|%-8.1e|%g|%G' % (3.14159, 31415.9, 1e-5, 1e20)", "'%x %X %o' % (255, 255, 8)",
           "'%%' % ()", "'%r' % 'a\\'b'", "'%s' % [1, 2]", "'%.3s' % 'abcdef'", "'%5s|%-5s' % ('a', 'é')",
           "'%d' % 'a'", "'%s' % (1, 2)", "'%s %s' % (1,)", "'%' % 1", "'%d' % 3.9",
           "'a' % ()", "'a' % {}", "'%i%u' % (1, 2)",
           "'%s' % none", "'%s' % true", "'%d' % true", "'%s'|format(1, 2)", "'%s-%s'|format('a', 2)",
           "'%s'|format", "'{} {}'.format(1, 'a')", "'{0} {1} {0}'.format('a', 'b')",
           "'{a}'.format(a=1)", "'{{}}'.format()", "'{}'.format()",
           
           "'%s' % nosuch", "'%-08d|' % 5", "'%+.1f' % -0.04",]

EXPRESSIONS = shown(
    "1 if true else 2", "1 if false else 2", "1 if false", "(1 if false) is defined",
    "1 if 0 else 2 if 0 else 3", "'a' 'b' \"c\"", "'a' ~ 1 ~ none ~ 2.0 ~ nosuch", "1 ~ [1, 'a']",
    "not true", "not not 1", "not 1 == 2", "1 < 2 < 3", "1 < 3 < 2", "1 < 2 == true", "3 in [1, 3] in [true]",
    "1 == 1.0 == true", "'a' in 'abc'", "'' in ''", "1 in 'abc'", "'a' in {'a': 1}", "[1] in {}",
    "'x' not in [1]", "2 ** 3 ** 2", "-2 ** 2", "2 ** -1", "(-8) // 3", "-8 % 3", "8 % -3", "7.5 // 2",
    "-7.5 % 2", "1 / 0", "1 // 0", "1 % 0", "0.0 ** -1", "2 ** 62",
    "9223372036854775807", "1_000", "0x1F", "0b101", "0o17", "1.5e3", "1e3", "1_0.5_0", "007", "00",
    "0x", "1.", "1.e3", ".5", "12abc", "{} or [] or 'x'", "1 and 'y'", "0 and nosuch.a", "none or nosuch",
    "[1, 2] + [3]", "(1,) + (2,)", "[1] + (2,)", "'a' + 1", "'a' * 3", "3 * 'a'", "[0] * 2", "'a' * -1",
    "'a' * 1.5", "-'a'", "+true", "-true", "- 3", "--3", "+-+3", "true + true", "'%s' % 1", "[1, 2] == [1, 2]",
    "(1, 2) == [1, 2]", "{'a': 1} == {'a': 1.0}", "none == false", "nosuch == nosuch", "nosuch == none",
    "[1, 2] < [1, 3]", "[1] < [1, 2]", "(1, 'a') < (1, 'b')", "'a' < 'b'", "'a' < 1", "none < 1", "1 < nosuch",
    "{} < {}", "[none] < [none]", "[none] < [1]", "true > false", "'Z' < 'a'", "'é' > 'z'", "1 < 1.5", "2**53 + 1 == 2.0**53",
    "[]", "[1, 'a', none, true, 1.5, [2]]", "(1, 2)", "(1,)", "()", "1, 2", "1,", "{'a': 1, 2: 'b', none: [1]}",
    "{}", "{'a': 1,}", "[1,]", "[1, 2,]", "{'a': 1, 'a': 2}", "{[1]: 2}", "{1: 'a', 1.0: 'b', true: 'c'}",
    "'it\\'s'", "['it\\'s', 'say \"x\"', 'both \\' and \"']", "['\\n\\t\\\\', '\\x00\\x7f\\xad', 'é', '\\u200b', '🙂']",
    "'\\n' == '\n'", "'\\q\\8\\101\\x41\\u0042\\U00000043'", "'\\x4'", "\"a'b\"",
    "true", "True", "TRUE", "none", "None", "null", "false", "False", "nosuch", "nosuch.a", "nosuch['a']", "nosuch()",
    "nosuch + 1", "nosuch ~ 'x'", "nosuch | upper", "nosuch | length", "nosuch | list", "nosuch | join", "nosuch is defined",
    "[nosuch]", "(nosuch, 1)", "{'a': nosuch}", "{}.a", "{}.a.b", "{}['a'].b", "{}.a is defined", "[].a", "none.a", "1 .a",
    "messages.nosuch", "messages[0].nosuch is undefined", "messages[99]", "messages[99].a", "messages[0]['role']", "messages[0].get('x')",
    "messages[0].get('x', 'y')", "messages[0].get('role')", "messages[0].keys()", "messages[0].values()", "messages[0].items()",
    "messages[0].items()|list", "messages[0].keys()|list|first", "'role' in messages[0]", "messages[0] == messages[0]",
    "messages[0]", "messages|length", "messages[:1]", "messages.append(1)", "messages[0].update({})", "messages[0].pop('role')", "{'a': 1}.pop",
    "[1].append(2)", "[3, 1].sort()", "[1].index(1)", "[1].index(2)", "[1, 1].count(1)", "(1, 1).count(1)", "[1].copy()", "{'a': 1}.copy()",
    "{'items': 3}['items']", "{'x': 3}.x", "{'a': 1} | attr('a')", "{'a': 1} | attr('items') is callable", "{'items': 3}.items is callable",
    "dict(a=1, b=2)", "dict([('a', 1)])", "dict({'a': 1}, b=2)", "dict(1)", "dict([1])", "namespace(a=1).a", "namespace({'b': 2}).b", "namespace().x",
    "namespace(a=1)", "range(3)", "range(3)|list", "range(1, 10, 3)|list", "range(5, 0, -2)|list", "range(0)|list", "range(1, 2, 0)", "range('a')",
    "range(3)[1]", "range(10)[-1]", "range(10)[2:5]|list", "3 in range(5)", "range(3) == range(0, 3)", "range(2.0)", "range()", "range(100000)|length",
    "range(100001)", "joiner is defined", "cycler is defined", "lipsum is defined", "loop is defined", "caller is defined",
    "raise_exception('no')", "raise_exception('a' ~ 1)", "raise_exception()", "raise_exception(none)", "strftime_now('%Y-%m-%d')", "strftime_now('%B %d, %A %j %%')",
    "strftime_now()", "strftime_now('')", "raise_exception is callable", "'a'.__class__", "''.__class__.__mro__",
    "[].__len__()", "{}.__init__", "messages.__class__", "'abc'[1].upper()", "'a,b'.split(',')[1]", "('a' ~ 'b').upper()", "'a'|upper ~ 'b'", "'a' ~ 'b'|upper",
    "1 + 2|string", "-1|abs", "(-1)|abs", "-1.5|int", "not 'a'|length == 1", "'a'.upper()|lower.upper()", "'a b'|title|replace(' ', '')|lower", "[1,2]|first + 1",
    "[[1,2],[3]]|map('first')|list", "'x' if nosuch else 'y'", "'x' if nosuch is defined and nosuch.a else 'y'", "nosuch.a if nosuch is defined else 'y'",
    "'a' is string and 'b' is not string", "1 is not none", "not 1 is none", "1 is odd is true", "2 is divisibleby 2", "2 is divisibleby(2) and 3 is odd", "1 is in [1]", "1 is in(1)",
    "'a' is eq 'a'", "[1] is sameas [1]", "1 is sameas 1", "'a' is filter", "'upper' is filter", "'odd' is test", "x is y", "1 | nosuch if false else 2", "1 is nosuch if false else 2",
    "messages[0].content | nosuch if false", "'a' if 1 is nosuch else 'b'", "(1 | nosuch)", "''.join(['a', 'b'])", "'-'.join(messages | map(attribute='role'))",
    "1 if 2 else 3 if 4 else 5", "[1 if true else 2, 3]", "{'a': 1 if false else 2}", "f(1)", "1(2)", "'a'(1)", "dict(a=1)(2)", "dict(*[[('a', 1)]])", "dict(**{'a': 1})", "dict(**1)",
    "range(*[1, 4])|list", "range(*[1], *[4])|list", "dict(a=1, **{'a': 2})", "dict(**{'a': 1}, b=2)", "dict(b=1, *[{}])", "'%s' | format(*[1])",
    "1 +", "1 2", "'a' 1", "a b", "(1", "1)", "[1", "{1}", "{'a'}", "{'a': }", "1 if", "if", "a.", "a.1.2", "a[", "a[]", "|upper", "1|", "1 is", "1 is not", "1 in", "not", "*1", "**1", "a = 1",
    "a == ", "@", "a ? b : c", "!a", "a != b", "a <> b", "a && b", "$a", "`a`", "a; b", "'unclosed", "\"unclosed", "'a\\'", "#", "a # b", "[*[1]]", "lambda: 1", "1 // 2", "a:b", "é", "é is defined", "_a", "a1",
    "ﬁ", "日本 is undefined", "a-b", "a - b is defined", "1if 1else 2", "1or 2", "not(1)", "not[1]", "'a'if'b'else'c'", "[1][0]", "[[1]][0][0]", "{'a':{'b':[5]}}.a.b[0]", "{'a':{'b':[5]}}['a'].b.0",
    "(1, 2)[0]", "'abc'.0", "'abc'[0][0]", "[1,2,3][messages|length - 2]", "true is true", "1 is true", "1 is boolean", "1.0 is integer", "none is none", "''|length > 0", "2 > 1 > 0", "0 == false", "'1' == 1",
    "(1 == 1) ~ ''", "1 if messages else 2", "messages[-1].content[-4:]", "messages[1].content.strip().split(',')", "messages[1].content[1:4]|upper", "messages[1].content|trim|length", "messages[1].content|tojson",
    "messages[1].content.title()", "messages[1]['content'] | replace('ß', 'ss')", "messages|map(attribute='content')|map('length')|sum", "messages|tojson", "messages|map('tojson')|join('\\n')",
    "messages|selectattr('role', 'equalto', 'user')|list|length", "messages|rejectattr('role', 'in', ['user'])|map(attribute='role')|join(' ')", "(messages|selectattr('role', 'eq', 'nosuch')|first) is defined",
    "(messages|last).role", "messages|first|attr('role')", "messages[0]|items|list", "messages|groupby('role')|map(attribute='grouper')|list", "(messages|groupby('role')|first).list|length",
    "messages|sum(attribute='content')", "1000000 * 1000000", "9223372036854775806 + 1", "1e308 * 10", "-1e308 * 10", "1e308 * 10 - 1e308 * 10", "5 // 2.0", "5 % 2.5", "2 ** 0.5", "0 ** 0", "(-2) ** 3", "7 // -2", "-7 // 2",
    "0.1 + 0.2", "1e22", "1e21 + 1", "123456789.123456789", "1.0", "100000000000000000000.0", "5e-324", "1.7976931348623157e308", "0.00001", "1/2", "4/2", "3.0 * 2", "2 * 3.5", "int('3')", "str(3)", "len([])",
    "bos_token", "eos_token", "bos_token + 'x' + eos_token", "tools", "tools is none", "documents is none", "add_generation_prompt", "not add_generation_prompt", "unk_token is defined", "pad_token",
)

STATEMENTS = [
    "{% if 1 %}a{% endif %}", "{% if 0 %}a{% else %}b{% endif %}", "{% if 0 %}a{% elif 1 %}b{% else %}c{% endif %}",
    "{% if nosuch %}a{% endif %}b", "{% if nosuch.a %}a{% endif %}", "{% if 1 %}", "{% endif %}", "{% if %}a{% endif %}", "{% if 1 %}{% else %}{% else %}{% endif %}",
    "{% if 1 %}{% elif %}{% endif %}", "{% if 1, 2 %}t{% endif %}", "{% if 0 %}{{ 1|nosuch }}{% endif %}a", "{% if 1 %}{{ 1|nosuch }}{% endif %}a", "{{ 1|nosuch }}",
    "{% if 0 %}{{ 1 is nosuch }}{% endif %}a", "{% if 0 %}{% for x in [1|nosuch] %}{% endfor %}{% endif %}a", "{% if 0 %}{% for x in [1] %}{{ x|nosuch }}{% endfor %}{% endif %}a",
    "{% if 0 %}{% set x %}{{ x|nosuch }}{% endset %}{% endif %}a", "{% if 0 %}{% macro f() %}{{ 1|nosuch }}{% endmacro %}{% endif %}a",
    "{% for x in [1, 2, 3] %}{{ x }}{% endfor %}", "{% for x in [] %}{{ x }}{% else %}none{% endfor %}", "{% for x in nosuch %}{{ x }}{% else %}none{% endfor %}", "{% for x in none %}{% endfor %}",
    "{% for x in 3 %}{% endfor %}", "{% for x in 'häß' %}{{ x }}.{% endfor %}", "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in {'a': 1}|items %}{{ k }}={{ v }};{% endfor %}", "{% for a, b in [[1, 2], (3, 4), '56'] %}{{ a }}{{ b }};{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for x in [1, 2, 3, 4] if x is even %}{{ loop.index }}:{{ x }}/{{ loop.length }} {% endfor %}", "{% for x in [1, 2] if x > 5 %}{{ x }}{% else %}none{% endfor %}", "{% for x in [1, 2, 3] if loop.index > 1 %}{{ x }}{% endfor %}",
    "{% for x in [1,2,3] %}{{ loop.index }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }} {{ loop.length }} {{ loop.depth }} {{ loop.depth0 }}\n{% endfor %}",
    "{% for x in [1,2,3] %}{{ loop.previtem }}<{{ x }}<{{ loop.nextitem }} {% endfor %}", "{% for x in [1,2,3] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in [1,2,3,4] %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1] %}{{ loop.cycle() }}{% endfor %}", "{% for x in [1,1,2,2,1] %}{{ loop.changed(x) }} {% endfor %}", "{% for x in [1] %}{{ loop.nosuch }}{{ loop.nosuch is defined }}{% endfor %}",
    "{% for x in [1, 2] %}{{ loop }}{% endfor %}", "{% for x in [1, 2] %}{% for y in [3, 4] %}{{ x }}{{ y }}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in [1, 2] %}{% set outer = loop %}{% for y in [3, 4] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}", "{{ loop.index }}", "{% for x in [1] %}{% endfor %}{{ loop is defined }}{{ x is defined }}",
    "{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for x in [1] %}{% break %}{% else %}e{% endfor %}",
    "{% for x in [1] %}{% continue %}{% else %}e{% endfor %}", "{% break %}", "{% continue %}", "{% for x in [1] %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}", "{% for x in [1, 2] %}{% for y in [1, 2] %}{% break %}{% endfor %}{{ x }}{% endfor %}",
    "{% for x in [1, 2] %}{% set s %}a{% break %}b{% endset %}{{ s }}{% endfor %}c", "{% for x in [1, 2] %}{% filter upper %}a{% continue %}b{% endfilter %}{% endfor %}c",
    "{% for x in [[1, [2]], 3] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}d{{ loop.depth }}{% endif %}{% endfor %}", "{% for x in [1] %}{{ loop([2]) }}{% endfor %}",
    "{% for loop in [1] %}{% endfor %}", "{% for x in [1] %}{% set loop = 1 %}{% endfor %}", "{% for x.y in [1] %}{% endfor %}", "{% for 1 in [1] %}{% endfor %}", "{% for true in [1] %}{% endfor %}", "{% for x of [1] %}{% endfor %}",
    "{% for x in %}{% endfor %}", "{% for x in [1] %}", "{% for in [1] %}{% endfor %}", "{% for x in [1], [2] %}{{ x }}{% endfor %}", "{% for x in 1 if true else [2] %}{% endfor %}", "{% for x in ([1] if true else [2]) %}{{ x }}{% endfor %}",
    "{% for x in range(3) %}{{ x }}{{ ',' if not loop.last }}{% endfor %}", "{% for x in messages[1:] %}{{ x.role }}{% endfor %}", "{% for m in messages|selectattr('role', 'ne', 'system') %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for m in messages|reverse %}{{ m.role }}{{ loop.revindex }}{% endfor %}", "{% for x in {'b': 1, 'a': 2}|dictsort %}{{ x }}{% endfor %}", "{% for x in [3,1]|sort %}{{ x }}{% endfor %}", "{% for x in 'a,b'.split(',') %}{{ x }}{% endfor %}",
    "{% for x in [1, 2] -%} {{ x }} {%- endfor %}", "{% set x = 1 %}{% for x in [2] %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{{ x }}", "{% set x, y = 1, 2 %}{{ x }}{{ y }}", "{% set x, y = [1] %}", "{% set (x, y) = (1, 2) %}{{ x }}", "{% set x = 1, 2 %}{{ x }}", "{% set x %}a{{ 1 }}b{% endset %}{{ x }}", "{% set x | upper %}abc{% endset %}{{ x }}",
    "{% set x | replace('a', 'b') | upper %}abc{% endset %}{{ x }}", "{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}", "{% set x.y = 1 %}", "{% set x = namespace() %}{% set x.y = 1 %}{{ x.y }}", "{% set x = {} %}{% set x.y = 1 %}",
    "{% set x['a'] = 1 %}", "{% set x = namespace(n=0) %}{% for i in [1,2,3] %}{% set x.n = x.n + i %}{% endfor %}{{ x.n }}", "{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}", "{% set ns = namespace() %}{% set ns.x %}abc{% endset %}{{ ns.x }}",
    "{% set x = 0 %}{% for i in [1,2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "{% set x = 0 %}{% if true %}{% set x = 1 %}{% endif %}{{ x }}", "{% if true %}{% set y = 1 %}{% endif %}{{ y }}", "{% for i in [1, 2] %}{% set y = i %}{% endfor %}{{ y is defined }}",
    "{% for i in [1, 2] %}{{ y is defined }}{% set y = i %}{{ y }}{% endfor %}", "{% set messages = messages[1:] %}{{ messages|length }}", "{% for m in messages %}{% set messages = [] %}{{ messages|length }}{% endfor %}{{ messages|length }}",
    "{% set true = 1 %}", "{% set 1 = 1 %}", "{% set x = %}", "{% set = 1 %}", "{% set x 1 %}", "{% set x %}a", "{% set x = 1 if false %}{{ x is defined }}", "{% set range = 5 %}{{ range }}", "{% set x = y = 1 %}", "{% set x += 1 %}",
    "{% set x = [] %}{% set y = x + [1] %}{{ x }}{{ y }}", "{% set a = 'x' %}{% set b %}{{ a }}{{ a }}{% endset %}{{ b|length }}", "{% set a = namespace(l=[]) %}{% for i in range(3) %}{% set a.l = a.l + [i] %}{% endfor %}{{ a.l }}",
    "{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=4, a=5) }}", "{% macro f(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ f() }}", "{% macro f() %}x{% endmacro %}{{ f(1) }}", "{% macro f() %}x{% endmacro %}{{ f(a=1) }}",
    "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, a=3) }}", "{% macro f(a, a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a=1, b) %}{% endmacro %}", "{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f(3) }}", "{% macro f() %}a{% endmacro %}{{ f()|upper }}{{ f() ~ 'b' }}",
    "{% macro f(n) %}{% if n %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% set x = 2 %}{{ f() }}", "{% macro f() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}", "{% macro f() %}{% set x = 2 %}{{ x }}{% endmacro %}{{ f() }}{{ x is defined }}",
    "{% for i in [1, 2] %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}", "{% for i in [1, 2] %}{% macro f() %}{{ i }}{{ loop is defined }}{% endmacro %}{{ f() }}{% endfor %}{{ f is defined }}", "{% if true %}{% macro f() %}a{% endmacro %}{% endif %}{{ f() }}",
    "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}g{% endmacro %}{{ f() }}", "{{ f() }}{% macro f() %}{% endmacro %}", "{% macro f() %}a{% endmacro %}{{ f }}", "{% macro f(x) %}a{% endmacro %}{{ f.name }}", "{% macro f() %}{{ caller() }}!{% endmacro %}{% call f() %}in{% endcall %}",
    "{% macro f() %}{{ caller(1, 2) }}!{% endmacro %}{% call(a, b) f() %}{{ a }}+{{ b }}{% endcall %}", "{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}", "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}", "{% macro f() %}x{% endmacro %}{% call f() %}in{% endcall %}", "{% call 1 %}{% endcall %}", "{% call nosuch() %}{% endcall %}",
    "{% set x = 1 %}{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{{ x }}{% endcall %}", "{% macro f %}{% endmacro %}", "{% macro f() %}", "{% macro f(1) %}{% endmacro %}", "{% macro %}{% endmacro %}", "{% macro f(x) %}{{ x|upper }}{% endmacro %}{% for i in 'ab' %}{{ f(i) }}{% endfor %}",
    "{% macro f(x, y=[]) %}{{ x }}{{ y }}{% endmacro %}{{ f(*[1, 2]) }}{{ f(**{'x': 3}) }}", "{% macro f(x) %}  a {{ x }}\n{% endmacro %}[{{ f(1) }}]", "{% macro f(a) %}{{ messages|length }}{{ bos_token }}{{ a }}{% endmacro %}{{ f('x') }}",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}", "{% filter replace('a', 'b') | title %}aa ab{% endfilter %}", "{% filter nosuch %}{% endfilter %}", "{% filter %}{% endfilter %}", "{% filter trim %}  a  {% endfilter %}|",
    "{% with x = 1 %}{{ x }}{% endwith %}{{ x is defined }}", "{% with %}{% set x = 1 %}{{ x }}{% endwith %}{{ x is defined }}", "{% with x = 1, y = 2 %}{{ x }}{{ y }}{% endwith %}", "{% set x = 0 %}{% with x = 1, y = x %}{{ x }}{{ y }}{% endwith %}", "{% with x %}{% endwith %}",
    "{% print 1 %}", "{% print 1, 2 %}", "{% generation %}a{{ 1 }}{% endgeneration %}", "{% generation %}a", "{% for x in [1] %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}", "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "{% endgeneration %}",
    "{% do 1 %}", "{% nosuch %}", "{% %}", "{%%}", "{% 1 %}", "{% raw %}{{ x }}{% if %}{% endraw %}", "{% raw %}a", "{%- raw -%} a {%- endraw -%} b", "a {% raw %} {{ {% endraw %} b", "{% raw %}\n a {% endraw %}\nb", "  {% raw %}  a\n  {% endraw %}  \nb", "{%+ raw %} a {%+ endraw +%}\n b", "{% endraw %}",
    "{# a #}b", "a {#- b -#} c", "{# a", "a\n  {# b #}\n c", "a\n  {# b #} d\n c", "{# {{ x }} {% if %} #}a", "{# a # } #}b", "{## a ##}b", "{#- a +#}\nb", "a {#+ b #}c", "{##}a", "{#-#} a", "a #} b", "a }} b %} c", "{ { a } }", "{a}", "{", "}", "{{", "{%", "{{ 1 }", "{{ 1", "{{ }}", "{{}}", "{{ 1 }}}", "{{{1}}}", "{{ {'a': 1} }}", "{{ {'a': {}} }}", "{{{'a': 1}}}",
    "{{ '}}' }}", "{{ '%}' }}", "{{ \"{{\" }}", "{% if '%}' %}a{% endif %}", "{{ '{#' }}", "{% set x = '{% endset %}' %}{{ x }}",
    "a\n{% if 1 %}\nb\n{% endif %}\nc\n", "a\n  {% if 1 %}  \n  b\n  {% endif %}\n  c", "  {% if 1 %}a{% endif %}", "a  {% if 1 %}b{% endif %}", "a\n\t{% if 1 %}b\n\t {% endif %}", "a\n  {{ 1 }}\nb", "a {{- 1 -}} b", "a\n\n {{- 1 -}} \n\n b", "a {%- if 1 -%} b {%- endif -%} c", "a\n  {%+ if 1 %}b\n  {%+ endif %}c", "a {% if 1 +%}\nb{% endif +%}\nc", "{{ 1 }}\n", "{{ 1 }}\n\n", "a\n", "a\n\n", "\n", "\n\n", "", " ", "\r\n", "a\r\nb\rc\n", "a\r", "{{ 1 -}}\r\n b", "{% if 1 %}\r\nb\r\n{% endif %}\r\n",
    "{% if 1 -%}\n\n  b\n\n{%- endif %}", "\u00a0{% if 1 %}a{% endif %}", "a\n\u00a0\u3000{% if 1 %}b{% endif %}", "a\n\x0b\x0c{% if 1 %}b{% endif %}", "a\u2028 {% if 1 %}b{% endif %}", "x{{- ' a ' -}}y", "x  {{+ 1 }}", "x {{ 1 +}}", "{{-1}}", "{{ -1 -}} a", "{{- -1 }}", "{{--1}}", "{%-if 1-%}a{%-endif-%}", "{%if 1%}a{%endif%}", "{{1}}", "{{\n1\n}}", "{%\nif 1\n%}a{%\nendif\n%}", "{{ 1\n+\n2 }}", "{{ 'a\nb' }}", "a{% set x = 1 %}\n\nb", "a\n{% set x = 1 -%}\n\nb", "a\n  {%- set x = 1 %}\nb",
    "  {# c #}\n  {% if 1 %}\n    a\n  {% endif %}\n", "{% if 1 %} {% endif %} a", "{% for x in [1,2] %}\n{{ x }}\n{% endfor %}\n", "{% for x in [1,2] -%}\n{{ x }}\n{%- endfor %}\n", "{% for x in [1,2] %}\n  {{- x -}}\n{% endfor %}", "a{% if 1 %}\n\n{% endif %}b", "{{ 1 }}  {% if 1 %}b{% endif %}", "{{ 1 }}\n  {% if 1 %}b{% endif %}", "{% if 1 %}{% endif %}  {% if 1 %}b{% endif %}", "{% if 1 %}\n  {% endif %}b", "{{ 1 }}{# c #}  {% if 1 %}b{% endif %}",
    "-{%- if 1 %}-{% endif -%}-", "{% if 1 %}a{% endif-%} b", "{% if 1 %}{{ 'a' }}\n{% endif %}b", "line1 {# c #}\nline2", "## a\n# for x in y\n% if 1\n", "{% if 1: %}a{% else: %}{% endif %}", "{% for x in [1]: %}{{ x }}{% endfor %}", "{% if 1 %}a{% endif x %}", "{% for x in [1] %}{% endfor x %}",
    "{% trans %}a{% endtrans %}",
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if not loop.last %}\n{% endif %}{% endfor %}", "{{ messages|map(attribute='role')|join(',') }}", "{% for m in messages if m.role == 'user' %}{{ m.content|trim }}{% endfor %}", "{% for m in messages %}{% if loop.previtem and loop.previtem.role == 'user' %}{{ m.role }}{% endif %}{% endfor %}",
    "{% set s = messages[0].content if messages[0].role == 'system' else '' %}{{ s }}", "{% if messages[0]['role'] == 'system' and messages|length > 2 %}y{% endif %}", "{%- set ns = namespace(found=false) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.found = true -%}{%- endif -%}{%- endfor -%}{{ ns.found }}",
    "{% for i in range(2) %}{% for j in range(2) if i != j %}{{ i }}{{ j }};{% endfor %}{% endfor %}", "{% for x in [1, 2, 3] %}{% if loop.first %}[{% endif %}{{ x }}{% if loop.last %}]{% else %}, {% endif %}{% endfor %}", "{% for x in [1,2,3] %}{{ loop.last }}{% break %}{% endfor %}", "{% for x in [1,2,3]|map('abs') %}{{ loop.length }}{{ loop.last }}{{ x }}{% endfor %}",
    "{% set it = [1,2,3]|map('abs') %}{{ it|first }}{{ it|list }}", "{% set it = [1,2,3]|map('abs') %}{% for x in it %}{% break %}{% endfor %}{{ it|list }}", "{% set it = {'a': 1}.items() %}{{ it|list }}{{ it|list }}", "{% set it = [2, 1]|reverse %}{{ it|list }}{{ it|list }}", "{{ [1]|map('abs') is iterable }}", "{% if []|map('abs') %}t{% endif %}", "{{ ([1]|map('abs'))[0] }}", "{{ [1]|map('abs')|length }}",
    "{% if [1]|select %}t{% endif %}{{ [0]|select|list }}", "{% for x in [1] %}{% for x in [2] %}{{ x }}{% endfor %}{{ x }}{% endfor %}", "{% for x in [1, 2] %}{% set x = x * 10 %}{{ x }}{% endfor %}", "{% set a = 1 %}{% set f %}{{ a }}{% endset %}{% set a = 2 %}{{ f }}", "{% macro m(x) %}{{ x }}{% set x = 5 %}{{ x }}{% endmacro %}{{ m(1) }}",
    "{% if 0 %}{% set z = 1 %}{% endif %}{{ z is defined }}", "{% set z = 5 %}{% if 0 %}{% set z = 1 %}{% endif %}{{ z }}", "{% for i in [1] %}{% if i %}{% set z = i %}{% endif %}{{ z }}{% endfor %}{{ z is defined }}", "{% for i in [] %}{% else %}{% set z = 1 %}{{ z }}{% endfor %}{{ z is defined }}", "{% if false %}{% set messages = [] %}{% endif %}{{ messages|length }}",
    "{% for m in messages %}{% if m.role == 'user' %}{% set q = m.content %}{% endif %}{% endfor %}{{ q is defined }}", "{% set q = 'a' %}{% for m in messages %}{% if loop.first %}{% set q = 'b' %}{% endif %}{{ q }}{% endfor %}{{ q }}", "{% for x in [1,2] %}{{ q|default('-') }}{% set q = x %}{% endfor %}", "{% macro f() %}{{ q|default('-') }}{% endmacro %}{% for q in [1] %}{{ f() }}{% endfor %}",
    "{% macro f(x) %}{{ x }}{% endmacro %}{% set g = f %}{{ g(1) }}", "{{ [1, 2, 3][1:]|first }}", "{% set d = dict(a=1) %}{{ d.a }}{% for k in d %}{{ k }}{% endfor %}", "{% set d = dict(messages[0], content='x') %}{{ d }}", "{{ messages[0] | tojson | length }}", "{% set _ = messages %}{{ _|length }}", "{% set __ = 1 %}{{ __ }}", "{{ _ is defined }}", "{% set x = {'a': 1, 'b': {'c': [1, 2]}} %}{{ x.b.c[1] }}{{ x['b']['c'] }}",
    "{{ {'a': [{'b': 'c'}]}.a[0].b }}", "{% set x = 'a' if true else 'b' %}{{ x }}", "{% set x = ('a', 'b') %}{% if 'a' in x %}y{% endif %}", "{% if messages[0].tool_calls is defined and messages[0].tool_calls %}t{% else %}f{% endif %}", "{% if 'tool_calls' in messages[0] %}t{% else %}f{% endif %}", "{% if messages[0].content is string %}s{% endif %}", "{% if not messages[0].content is mapping %}n{% endif %}", "{{ '' if loop is defined else 'x' }}",
]


# What jinja2 can and zeph refuses, with a sentence: never another text.
REFUSED = shown(
    "'a'.encode()", "'a'.casefold()", "'\u0663' | int", "'\u0663' | float", "'a'.isidentifier()", "'a\\tb'.expandtabs()", "'a' | urlencode",
    "'a b' | wordwrap(1)", "'<a>' | striptags", "1 | filesizeformat", "1 | pprint",
    "{'a': 1} | xmlattr", "[1] | random", "'%c' % 'a'", "'%(a)s' % {'a': 1}", "'%#x' % 255",
    "'%*d' % (5, 3)", "'%a' % 'a'", "'{:>5}'.format('x')", "'{a[b]}'.format(a={'b': 2})",
    "'{!r}'.format('x')", "10 ** 20", "9223372036854775807 + 1", "9223372036854775808",
    "-9223372036854775807 - 2", "9223372036854775807 * 2", "(-8) ** 0.5", "('9' * 20) | int",
    "1e20 | int", "'\\ud800'", "'\\N{DIGIT ONE}'", "(1.5).is_integer()", "cycler(1)",
    "joiner()", "lipsum()", "'a' | format(a=1) if false else 'b' | format(b=1)",
) + [
    "{% block a %}x{% endblock %}", "{% autoescape true %}x{% endautoescape %}", "{% include [] %}",
    "{% extends 'a' %}", "{% import 'a' as b %}", "{% from 'a' import b %}",
]


def _cases():
    made = {
        "string methods": [f"{{{{ {s}.{m} }}}}" for s in STRINGS for m in STRING_METHODS],
        "text filters": [f"{{{{ {s} | {f} }}}}" for s in STRINGS for f in FILTERS],
        "number filters": [f"{{{{ ({n}) | {f} }}}}" for n in NUMBERS for f in NUMBER_FILTERS],
        "operators": [f"{{{{ {a} {o} {b} }}}}" for a in OPERANDS for o in OPERATORS
                      for b in OPERANDS if (a, o, b) != ("-7", "**", "2.5")],
        "tests": [f"{{{{ {v} is {t} }}}}" for v in TESTED for t in TESTS],
        "list filters": [f"{{{{ {v} | {f} }}}}" for v in LISTS for f in LIST_FILTERS],
        "generators": [f"{{{{ [3, 1]|map('abs') | {f} }}}}" for f in LIST_FILTERS
                       if f.split("(")[0] not in SHOWING],
        "subscripts": [f"{{% set v = {v} %}}{{{{ v{s} }}}}" for v in SLICED for s in SLICES],
        "tojson": [f"{{{{ {v} | tojson{how} }}}}" for v in TOJSON for how in TOJSON_HOW],
        "formats": shown(*FORMATS),
        "expressions": EXPRESSIONS,
        "statements": STATEMENTS,
    }
    return made


CASES = _cases()
