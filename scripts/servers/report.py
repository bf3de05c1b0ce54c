"""The table of docs/COMPATIBILITY.md."""
import datetime, json

from servers.run import FAILED, PASSED, QUIRK, UNTESTED, Result, label

BEGIN, END = "<!-- table: scripts/conformance --report -->", "<!-- end of the table -->"


class Notes:
    """Numbered remarks below a table; what is said twice is numbered once."""

    def __init__(self):
        self.texts = []

    def number(self, text):
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def columns(done, kept):
    """Version, date and results by server; those of another time from the file `kept`, which gets the new ones."""
    old = json.loads(kept.read_text()) if kept and kept.exists() else {}
    today = str(datetime.date.today())
    steps = {name: old.get(name, [0, 0, {}])[2] | results for name, (_, results) in done.items()}
    new = old | {name: [version, today, steps[name]] for name, (version, _) in done.items()}
    if kept:
        kept.write_text(json.dumps(new, indent=1) + "\n")
    return {name: (version, date, {step: Result(*result) for step, result in results.items()})
            for name, (version, date, results) in new.items()}


def cell(result, notes, title):
    if result is None or result.word == PASSED:
        return UNTESTED if result is None else f"passed ({result.note})" if result.note else PASSED
    word = {QUIRK: "**quirk**", FAILED: "**FAILED**", UNTESTED: UNTESTED}[result.word]
    return f"{word} [{notes.number(f'{title}: {result.note.splitlines()[0][:300]}')}]"


def table(kinds, done, steps):
    """One row a step, one column a server; what is peculiar stands below it."""
    ran, notes = [kind for kind in kinds if kind.name in done], Notes()
    lines = ["| | " + " | ".join(f"{kind.title} {done[kind.name][0]}, {done[kind.name][1]}" for kind in ran) + " |"]
    lines.append("|---" * (len(ran) + 1) + "|")
    for step in steps:
        cells = (cell(done[kind.name][2].get(label(step)), notes, kind.title) for kind in ran)
        lines.append(f"| **{label(step)}**: {step.__doc__} | " + " | ".join(cells) + " |")
    lines += ["", *(f"[{n}] {text}  " for n, text in enumerate(notes.texts, 1))] * bool(notes.texts)
    lines += ["", "How each was run:", ""]
    for kind in kinds:
        how = f"`{kind.get}`" + (f"; {kind.note}" if kind.note else "")
        lines.append(f"- {kind.title}: {how}{'' if kind.name in done else '; **untested**: it was not installed'}")
    return "\n".join(lines)


def write_report(path, kinds, done, steps):
    """Replaces what is between the marks, or makes the file."""
    text = path.read_text() if path.exists() else f"{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    path.write_text(f"{before}{begin}\n{table(kinds, done, steps)}\n{end}{after}")


def has_place(path):
    """Whether a report may be written there without losing what somebody wrote."""
    return not path.exists() or BEGIN in path.read_text() and END in path.read_text()
