"""Jinja as transformers 4.57.6 sets it up for chat templates, and zeph's own beside it."""

import copy
import datetime
import functools
import json
import subprocess

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    """{% generation %}: marks what the assistant says; nothing of it shows in the text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda how: datetime.datetime.now().strftime(how)
    return made


ENVIRONMENT = environment()


@functools.lru_cache(maxsize=256)
def compiled(source):
    return ENVIRONMENT.from_string(source)


def render(source, messages, bos="<s>", eos="</s>", add_generation_prompt=True):
    """("text", text), ("refused", the template's own message), ("compile", …) or ("render", …)."""
    try:
        template = compiled(source)
    except (jinja2.TemplateSyntaxError, SyntaxError, RecursionError) as e:
        return "compile", f"{type(e).__name__}: {e}"
    except Exception as e:  # what a constant expression raises, which jinja2 folds as it compiles
        return "render", f"{type(e).__name__}: {e}"
    try:
        # A copy: some filters of jinja2 change their argument.
        text = template.render(messages=copy.deepcopy(messages), tools=None, documents=None, bos_token=bos,
                               eos_token=eos, add_generation_prompt=add_generation_prompt)
    except jinja2.TemplateError as e:
        if type(e) is jinja2.TemplateError:
            return "refused", str(e.message)
        return "render", f"{type(e).__name__}: {e}"
    except Exception as e:  # whatever the template makes Python raise
        return "render", f"{type(e).__name__}: {e}"
    return "text", text


class Zeph:
    """The program zeph-template, kept running: one request in, one answer out."""

    def __init__(self, build, *model):
        self.program = subprocess.Popen([build / "tests" / "tool" / "zeph-template", *model],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **request):
        self.program.stdin.write(json.dumps(request).encode() + b"\n")
        self.program.stdin.flush()
        line = self.program.stdout.readline()
        assert line, f"zeph-template ended with {self.program.wait()} at {request!r}"
        return json.loads(line)

    def render(self, source, messages, bos="<s>", eos="</s>", add_generation_prompt=True):
        """As render() above; a fourth kind is "limit"."""
        answer = self.ask(template=source, messages=messages, bos=bos, eos=eos,
                          add_generation_prompt=add_generation_prompt)
        return outcome(answer)

    def close(self):
        self.program.stdin.close()
        assert self.program.wait() == 0
        self.program.stdout.close()


def outcome(answer):
    if "text" in answer:
        return "text", answer["text"]
    if answer["code"] in ("E2BIG", "ENOTSUP"):
        return "limit", answer["error"]
    if answer["stage"] == "compile":
        return "compile", answer["error"]
    return ("refused" if answer["code"] == "EINVAL" else "render"), answer["error"]


def same(zeph, reference):
    """The same text, the same refusal in the template's own words, or an error at the same stage."""
    return zeph == reference if reference[0] in ("text", "refused") else zeph[0] == reference[0]
