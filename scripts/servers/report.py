"""The table of docs/COMPATIBILITY.md."""
import datetime

BEGIN, END = "<!-- table: scripts/conformance --report -->", "<!-- end of the table -->"


def table(kinds, done, steps):
    """One row a step, one column a server; what is peculiar stands below it."""
    from servers.run import QUIRK, label
    ran = [kind for kind in kinds if kind in done]
    lines = [f"Run on {datetime.date.today()}.", ""]
    lines.append("| | " + " | ".join(f"{kind.title} {done[kind][0]}" for kind in ran) + " |")
    lines.append("|---" * (len(ran) + 1) + "|")
    notes = []
    for step in steps:
        cells = []
        for kind in ran:
            result = done[kind][1].get(label(step))
            cell = result.word if result else "untested"
            if cell == QUIRK:
                notes.append(f"{len(notes) + 1}. {kind.title}, {label(step)}: {result.note}.")
                cell = f"quirk ({len(notes)})"
            cells.append(cell)
        lines.append(f"| **{label(step)}**: {step.__doc__} | " + " | ".join(cells) + " |")
    lines += ["", *notes] if notes else []
    return "\n".join(lines)


def write_report(path, kinds, done, steps):
    """Replaces what is between the marks, or the whole file where it has none."""
    text = path.read_text() if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        before = after = ""
        after = "\n"
    path.write_text(f"{before}{BEGIN}\n{table(kinds, done, steps)}\n{END}{after}")
