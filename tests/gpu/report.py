"""What a run found: one JSON object and one page of Markdown, written again after each stage, so
that a run that is cut short leaves what it had."""

import json


class Report:
    def __init__(self, about):
        self.about = about   # commit, card, driver, …
        self.stages = []     # {name, seconds, checks:[{name, ok, detail}], skipped, tables}

    def begin(self, name):
        self.stages.append({"name": name, "seconds": None, "checks": [], "skipped": [],
                            "tables": []})

    @property
    def stage(self):
        return self.stages[-1]

    def check(self, name, ok, detail=""):
        """A claim that holds or does not."""
        self.stage["checks"].append({"name": name, "ok": bool(ok), "detail": str(detail)})
        print(f"  {'ok  ' if ok else 'FAIL'} {name}{': ' + str(detail) if detail else ''}",
              flush=True)
        return bool(ok)

    def skip(self, name, why):
        """What this machine cannot do; neither passed nor failed."""
        self.stage["skipped"].append({"name": name, "why": why})
        print(f"  skip {name}: {why}", flush=True)

    def table(self, title, columns, rows):
        self.stage["tables"].append({"title": title, "columns": columns, "rows": rows})
        print(f"  {title}", flush=True)
        for row in rows:
            print("    " + "  ".join(f"{c}={cell(v)}" for c, v in zip(columns, row)), flush=True)

    def counts(self):
        checks = [c for s in self.stages for c in s["checks"]]
        passed = sum(c["ok"] for c in checks)
        return passed, len(checks) - passed, sum(len(s["skipped"]) for s in self.stages)

    def write(self, stem):
        passed, failed, skipped = self.counts()
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_name(stem.name + ".json").write_text(json.dumps(
            {**self.about, "passed": passed, "failed": failed, "skipped": skipped,
             "stages": self.stages}, indent=1) + "\n")
        stem.with_name(stem.name + ".md").write_text(self.markdown())

    def markdown(self):
        passed, failed, skipped = self.counts()
        about = self.about
        lines = [f"# GPU suite: {about['card']}, commit {about['commit']}", ""]
        if not about["real"]:
            lines += ["**No real card was here**: the module named by `ZEPH_CUDA_MODULE` stood in "
                      "for one. Nothing below says anything about a card's results or speed.", ""]
        lines += [f"{passed} passed, {failed} failed, {skipped} skipped.", ""]
        lines += [f"- {key}: {value}" for key, value in about.items() if key != "real"]
        for stage in self.stages:
            seconds = stage["seconds"]
            lines += ["", f"## {stage['name']}" + (f" ({seconds:.0f} s)" if seconds else ""), ""]
            for check in stage["checks"]:
                detail = f": {check['detail']}" if check["detail"] else ""
                lines.append(f"- {'ok' if check['ok'] else '**FAILED**'} {check['name']}{detail}")
            lines += [f"- skipped {s['name']}: {s['why']}" for s in stage["skipped"]]
            for table in stage["tables"]:
                lines += ["", table["title"], "", "| " + " | ".join(table["columns"]) + " |",
                          "|" + "---|" * len(table["columns"])]
                lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in table["rows"]]
        return "\n".join(lines) + "\n"


def cell(value):
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
