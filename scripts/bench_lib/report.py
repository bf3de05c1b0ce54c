"""What was measured, as Markdown and as a plot; and whether ratios are what they were."""
import dataclasses, datetime, json, math, os, pathlib, platform, statistics

from . import core

# Shared machines drift; a ratio this many times worse than the committed one is no drift.
WORSE_MAX = 1.5


def machine(bench):
    """Name -> value of everything that figures depend on."""
    cpu = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = core.version("git", "-C", str(core.ROOT), "log", "-1", "--format=%h")
    changed = core.version("git", "-C", str(core.ROOT), "status", "--porcelain", "--untracked-files=no") != "unknown"
    file_system = core.version("stat", "-f", "-c", "%T", str(bench.work))
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} cores, {cpu}, {memory:.0f} GiB, Linux {platform.release()}, {file_system}",
        "litesnap": core.version(str(bench.litesnap), "--version") + f" at {commit}" + (", changed since" if changed else ""),
        "find": core.version("find", "--version"), "restic": core.version("restic", "version"), "rclone": core.version("rclone", "version"),
        "rounds": str(bench.rounds),
    }


# --- Markdown -----------------------------------------------------------------------------------------------------------------

def table(title, lines):
    text = [f"## {title}", "", "| what | who | median | min–max | unit | litesnap by it |", "|---|---|---|---|---|---|"]
    for line in lines:
        ours = statistics.median(line.figures["litesnap"]) if "litesnap" in line.figures else None
        for at, (who, figures) in enumerate(line.figures.items()):
            median = statistics.median(figures)
            spread = f"{core.number(min(figures))}–{core.number(max(figures))}" if len(figures) > 1 else ""
            ratio = f"{ours / median:.2f}" if ours is not None and who != "litesnap" and median else ""
            text.append(f"| {line.what if at == 0 else ''} | {who} | {core.number(median)} | {spread} | {line.unit} | {ratio} |")
    remarks = sorted({line.remark for line in lines if line.remark})
    return "\n".join(text + [""] + [f"{remark[0].upper()}{remark[1:]}." for remark in remarks] + ([""] if remarks else []))


def targets(lines):
    text = ["## Targets", "", "| what | wanted | measured | |", "|---|---|---|---|"]
    for line in lines:
        for target in line.targets:
            missed = target.missed_by(line.figures)
            verdict = f"**missed by {missed:.0%}**" if missed else "met"
            value = target.measured(line.figures)
            measured = f"{value:.2f} ×" if target.to else f"{core.number(value)} {line.unit}"
            text.append(f"| {line.what} | {target.words(line.unit)} | {measured} | {verdict} |")
    return "\n".join(text + [""])


@dataclasses.dataclass
class Results:
    """Everything that one run measured."""
    about: dict
    skipped: list
    # (title, lines) of each section
    sections: list

    def lines(self):
        return [line for _, lines in self.sections for line in lines]

    def markdown(self):
        text = ["# Measured by scripts/bench", ""] + [f"- {name}: {value}" for name, value in self.about.items()]
        text += [f"- not measured: {what}" for what in self.skipped] + ["", targets(self.lines())]
        return "\n".join(text + [table(title, lines) for title, lines in self.sections])

    def to_json(self):
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text):
        read = json.loads(text)
        line = lambda fields: core.Line(**fields | {"targets": [core.Target(**target) for target in fields["targets"]]})
        return cls(read["about"], read["skipped"], [(title, [line(fields) for fields in lines]) for title, lines in read["sections"]])


def together(names, runs):
    """One table of several runs, each line from the last of them that has it."""
    newest = {}
    for run in runs:
        for title, lines in run.sections:
            newest.setdefault(title, {}).update({line.id: line for line in lines})
    text = ["# Benchmarks", "", "Every figure below is from one of these runs of `scripts/bench`, the newest that measured it:", ""]
    for name, run in zip(names, runs):
        text += [f"- [{name}]({name}): " + "; ".join(f"{key} {value}" for key, value in run.about.items())]
    text += ["", "![cycle time and memory against the number of databases](plot.svg)", ""]
    lines = [line for lines in newest.values() for line in lines.values()]
    text.append(targets(lines))
    return "\n".join(text + [table(title, list(lines.values())) for title, lines in newest.items()]), plot(lines)


# --- The plot -------------------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, MARGIN = 420, 300, 56
COLOURS = ["#1b6ca8", "#c1440e", "#4f7942", "#8e5ea2", "#7a6a4f", "#555555"]


def curves(lines, prefix):
    """Name -> [(databases, median)] of the lines whose id begins with `prefix`."""
    found = {}
    for line in lines:
        if line.id.startswith(prefix) and line.size:
            for who, figures in line.figures.items():
                found.setdefault(who, []).append((line.size, statistics.median(figures)))
    return {who: sorted(points) for who, points in found.items() if len(points) > 1}


def panel(at, title, unit, found):
    """One diagram with both axes logarithmic, as SVG."""
    points = [point for curve in found.values() for point in curve]
    if not points:
        return []
    bounds = [(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.001))) for values in zip(*points)]
    (left, right), (low, high) = [(a, b if b > a else a + 1) for a, b in bounds]
    x = lambda value: at + MARGIN + (math.log10(value) - left) / (right - left) * (WIDTH - MARGIN - 120)
    y = lambda value: HEIGHT - MARGIN - (math.log10(value) - low) / (high - low) * (HEIGHT - 2 * MARGIN)
    svg = [f'<text x="{at + MARGIN}" y="24" font-weight="bold">{title}</text>']
    for power in range(left, right + 1):
        svg.append(f'<line x1="{x(10**power):.1f}" y1="{MARGIN}" x2="{x(10**power):.1f}" y2="{HEIGHT - MARGIN}" stroke="#ddd"/>'
                   f'<text x="{x(10**power):.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{10**power:,}</text>')
    for power in range(low, high + 1):
        svg.append(f'<line x1="{at + MARGIN}" y1="{y(10.0**power):.1f}" x2="{x(10**right):.1f}" y2="{y(10.0**power):.1f}" stroke="#ddd"/>'
                   f'<text x="{at + MARGIN - 6}" y="{y(10.0**power) + 4:.1f}" text-anchor="end">{10.0**power:g} {unit}</text>')
    taken = []
    for colour, (who, curve) in zip(COLOURS, sorted(found.items(), key=lambda entry: entry[1][-1][1])):
        path = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in curve)
        label = y(curve[-1][1])
        # Names of curves that end close together are moved apart.
        while any(abs(label - other) < 13 for other in taken):
            label -= 1
        taken.append(label)
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
                   + "".join(f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>' for size, value in curve)
                   + f'<text x="{x(curve[-1][0]) + 8:.1f}" y="{label + 4:.1f}" fill="{colour}">{who}</text>')
    return svg + [f'<text x="{at + MARGIN}" y="{HEIGHT - 12}">databases</text>']


def plot(lines):
    """Cycle time and memory against the number of databases, as SVG."""
    panels = [("Idle cycle, 500 databases to a folder", "s", curves(lines, "idle-flat-")),
              ("Idle cycle, one database to a folder", "s", curves(lines, "idle-deep-")),
              ("Resident memory of the loop", "MB", curves(lines, "memory-"))]
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="white"/>']
    for at, (title, unit, found) in enumerate(panels):
        svg += panel(at * WIDTH, title, unit, found)
    return "\n".join(svg + ["</svg>", ""])


# --- Committed ratios -----------------------------------------------------------------------------------------------------------

def ratios(sections):
    return {line.id: {name: round(value, 3) for name, (value, _) in line.ratios().items()} for _, lines in sections for line in lines if line.ratios()}


def worse(sections, committed):
    """What is worse than committed by more than drift: (line id, text). A ratio that is missing there is told, too."""
    found = []
    for line in (line for _, lines in sections for line in lines):
        for name, (value, less_is_better) in line.ratios().items():
            before = committed.get(line.id, {}).get(name)
            if before is None:
                found.append((line.id, f"{line.id}: {name} has no committed ratio: scripts/bench --quick --commit"))
            elif (value > before * WORSE_MAX) if less_is_better else (value < before / WORSE_MAX):
                found.append((line.id, f"{line.id}: {name} is {value:.2f}, committed is {before:.2f}"))
    return found


def read_committed(path):
    return json.loads(pathlib.Path(path).read_text()) if pathlib.Path(path).exists() else {}


def write_committed(path, found):
    pathlib.Path(path).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
