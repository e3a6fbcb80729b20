"""CVs that never were, with the institutions, degrees and years of their education marked.

    cv = draw_cv(np.random.default_rng(1))
    text, spans = cv.labelled()

A CV draws its layout once, so that its entries look alike, and the values of every entry anew. What is marked:

- institution: the name of a university or school in the section of education, without place and department;
- degree: its title with the subject that belongs to it, without grades;
- year: the one in which it ended or is to end, and where only the beginning is given, that one. Always four digits.

The same kinds of names and years elsewhere, in experience, courses, awards and references, are not marked.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from baby_mamba.extraction import layouts, names
from baby_mamba.extraction.names import Names, Random, chance, pick
from baby_mamba.extraction.spans import FIELDS, LabelledText, Span, edit, join

_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November")
_MONTHS += ("December",)
_DUTIES = (
    *("Built reports for the management and cut costs by {n} %", "Looked after {number} customers a year"),
    *("Led a team of {n} people", "Responsible for {skill} and {skill2}", "Worked on {skill} with {company}"),
    *("Taught {subject} to {number} students", "Introduced {skill} in {end}", "Planned the budget of {end}"),
    *("Organised a conference on {subject} in {city}", "Wrote {n} internal guides", "Won the contract with {company}"),
)
_PRIZES = (
    *("Best Paper Award", "Dean's List", "{family} Scholarship", "Prize for {skill}", "{family} Medal in {subject}"),
    *("Travel grant", "First place, {city} Hackathon", "Teaching Award"),
)
_THESES = (
    *(
        "On the Use of {skill} in {subject}",
        "{subject} and {subject2}: a Study of {city}",
        "A Short History of {subject}",
    ),
    *("Models of {subject} since {birth}", "Towards Better {skill}"),
)
_GRADES = (
    *("First Class Honours", "Grade: 1.7", "GPA 3.8/4.0", "with distinction", "cum laude", "Upper Second Class", "2:1"),
    *("magna cum laude", "Grade point average: 3.6", "Merit", "Final grade 1.3", "Distinction", "GPA: 8.9 of 10"),
)
_LANGUAGES = ("English", "German", "French", "Spanish", "Polish", "Hindi", "Arabic", "Turkish", "Italian", "Mandarin")
_SIGNS = ("-", "~", "*", "/", "//", "|", "=", "==", "+", ">", "<", "»", ":", "::", "--", "...", "§", "→", "_", "^", "%")
_GLUE = (
    "{s}",
    "{s}",
    "{s}",
    ", ",
    "\n",
    "\n",
    "\n",
    "\n{b}",
    "\n  ",
    "\t",
    " {d} ",
    ": ",
    "; ",
    " {sign} ",
    " {word} ",
)
_BESIDE_A_DEGREE = (
    *("{city}", "{city}, {country}", "{grade}", "Thesis: {thesis}", "{word} {thesis}", "{person}", "{prize}"),
    *("Department of {subject}", "{word} {grade}", "{word}: {subject}, {subject2}", "{n} {word} {word2}", "{duty}"),
    *(
        "Supervisor: {person}",
        "{Word}: {person}",
        "{Word} {word}: {grade}",
        "Result: {grade}",
        "{Word} {word} {subject}",
    ),
)
_BESIDE_A_JOB = (
    "{city}",
    "{city}, {country}",
    "{duty}",
    "{duty}\n{b}{duty2}",
    "{person}",
    "{word} {skill}",
    "{n} {word}",
)
_EDUCATION_KEYS = {
    "{institution}": (
        "University",
        "Institution",
        "School",
        "College",
        "Where",
        "Place of study",
        "{word}",
        "Given by",
        "{Word} by",
        "{Word} at the",
        "{Word} {word}",
    ),
    "{degree}": (
        "Degree",
        "Qualification",
        "Title",
        "What",
        "Course of study",
        "{word}",
        "Name of degree",
        "{Word} of {word}",
        "{Word} {word}",
    ),
    "{dates}": (
        "Year",
        "Dates",
        "Period",
        "When",
        "Time",
        "Graduation",
        "{word}",
        "{Word} in",
        "Finished",
        "{Word} {word}",
    ),
}
_WORK_KEYS = {
    "{company}": ("Company", "Employer", "Firm", "{word}"),
    "{other_institution}": ("Company", "Employer", "Institution", "{word}"),
    "{job}": ("Position", "Job", "Title", "Role", "{word}"),
    "{dates}": ("Year", "Dates", "Period", "When", "{word}"),
}
_OTHER_THINGS = ("{prize}", "{skill}", "{thesis}", "{subject}", "{skill} {word}", "{word} {subject}", "{person}")
_OTHER_KEYS = dict.fromkeys(
    (*_OTHER_THINGS, "{other_institution}", "{company}", "{city}", "{end}"), ("{word}", "{Word}")
)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class Section(NamedTuple):
    """A part of a CV."""

    kind: str  # header, education, experience or other
    title: str  # as words; empty in the header
    heading: str  # as it is set in a text file
    entries: list[LabelledText]


class CV(NamedTuple):
    """A CV by its parts, from top to bottom."""

    sections: list[Section]
    between_entries: str
    between_sections: str

    def labelled(self) -> LabelledText:
        """The whole as one text."""
        return join(
            (
                join([*([LabelledText(s.heading)] if s.heading else []), join(s.entries, self.between_entries)], "\n")
                for s in self.sections
            ),
            self.between_sections,
        )


def draw_cv(random: Random, *, held_out: bool = False) -> CV:
    """A CV, as a function of the state of a random generator.

    Args:
        random: is advanced.
        held_out: whether layout and names are those to test with.
    """
    return _Writer(random, held_out).cv()


def as_read(labelled: LabelledText, random: Random) -> LabelledText:
    """The text as a reader may get it from a page: with other white space, and with lines that are broken.

    Columns come with tabs, with spaces or on lines of their own; empty lines and indents get lost; long lines are
    broken, some of them within a word.
    """
    column = pick(random, ("\t", "\t", " ", "   ", "      ", "\n"))
    labelled = edit(labelled, ((m.start(), m.end(), column) for m in re.finditer("\t", labelled.text)))
    if chance(random, 0.3):
        labelled = edit(labelled, ((m.start(), m.end(), "\n") for m in re.finditer(r"\n\s+", labelled.text)))
    if chance(random, 0.15):
        labelled = edit(labelled, ((m.start(), m.end(), " ") for m in re.finditer(r" {2,}", labelled.text)))
    if chance(random, 0.6):
        width = int(random.integers(14, 40) if chance(random, 0.4) else random.integers(40, 100))
        labelled = break_lines(labelled, random, width, hyphenate=pick(random, (0.0, 0.3, 1.0)))
    return labelled


def break_lines(labelled: LabelledText, random: Random, width: int, *, hyphenate: float = 0.0) -> LabelledText:
    """Break lines that are longer than `width`, as a page does, between words or within one.

    Args:
        labelled: line breaks that are in it stay.
        random: chooses which words are divided.
        width: characters.
        hyphenate: share of the words at a break that are divided, if they are long enough.
    """
    cuts: list[tuple[int, int, str]] = []
    line_start = 0
    for word in re.finditer(r"\S+", labelled.text):
        before = labelled.text[line_start : word.start()]
        if "\n" in before:
            line_start += before.rindex("\n") + 1
        room = width - (word.start() - line_start) - 1  # for a part of the word, beside a hyphen
        if word.end() - line_start <= width or not before.strip():
            continue
        divisible = word.group().isalpha() and len(word.group()) >= 6 and room >= 3
        if divisible and chance(random, hyphenate):
            line_start = word.start() + min(room, len(word.group()) - 3)
            cuts.append((line_start, line_start, "-\n"))
        elif labelled.text[word.start() - 1] == " ":
            line_start = word.start()
            cuts.append((line_start - 1, line_start, "\n"))
    return edit(labelled, cuts)


def structure(template: str) -> tuple[str, ...]:
    """The order of the values in a template and the line breaks and tabs between them; punctuation does not count."""
    return tuple(re.findall(r"\{(?!s\}|b\}|d\}|sign\})\w+\}|\n|\t", template))


def compose(random: Random, values: tuple[str, ...], beside: tuple[str, ...], keys: dict[str, tuple[str, ...]]) -> str:
    """A template of the values in any order, now and then without one, with up to three other things among them.

    It never has the structure of a template to test with.
    """
    parts = [values[i] for i in random.permutation(len(values))]
    if chance(random, 0.1):
        parts.pop()
    if chance(random, 0.3):
        parts = [f"{pick(random, keys[part])}: {part}" for part in parts]
    for _ in range(int(random.integers(0, 4))):
        parts.insert(int(random.integers(0, len(parts) + 1)), pick(random, beside))
    common = pick(random, _GLUE) if chance(random, 0.3) else None
    template = pick(random, ("", "", "{b}"))
    for number, part in enumerate(parts):
        glue = common or pick(random, _GLUE)
        bracketed = number and chance(random, 0.1)
        template += f" ({part})" if bracketed else glue * bool(number) + part
    held_out = map(structure, (*layouts.HELD_OUT.education, *layouts.HELD_OUT.experience))
    return compose(random, values, beside, keys) if structure(template) in held_out else template


class _Writer:
    """Draws the choices of one CV, and fills in its templates."""

    def __init__(self, random: Random, held_out: bool) -> None:
        self.random = random
        self.names: Names = names.HELD_OUT if held_out else names.TRAINING
        self.layouts = layouts.HELD_OUT if held_out else layouts.TRAINING
        self.style = {
            "s": pick(random, self.layouts.separators),
            "b": pick(random, self.layouts.bullets),
            "d": pick(random, self.layouts.dashes),
        }
        self.short_months, self.short_degrees = chance(random, 0.4), chance(random, 0.5)
        self.capitals = {field: chance(random, 0.08) for field in ("institution", "degree")}
        self.recent = int(random.integers(2005, 2031))
        self.age = int(random.integers(22, 50))

    def cv(self) -> CV:
        random, look = self.random, self.layouts
        self.heading = self.settle(pick(random, look.headings))
        self.rule = pick(random, "-=_*~") * int(random.integers(3, 40))
        sections = [self.education(), self.experience()]
        others = [look.others[i] for i in random.permutation(len(look.others))[: random.integers(0, 5)]]
        sections += [self.other(*other) for other in others]
        if chance(random, 0.15):  # a second one, as those have who divide work into kinds
            sections.append(self.experience())
        header = Section("header", "", "", [self.fill(pick(random, look.header), {})])
        return CV(
            [header, *(sections[i] for i in random.permutation(len(sections)))],
            pick(random, ("\n", "\n\n")),
            pick(random, ("\n", "\n\n", "\n\n", "\n\n\n")),
        )

    def education(self) -> Section:
        random, look = self.random, self.layouts
        template, dates = pick(random, look.education), pick(random, look.dates)
        if chance(random, look.composed):
            template = compose(random, ("{institution}", "{degree}", "{dates}"), _BESIDE_A_DEGREE, _EDUCATION_KEYS)
        template, columns = self.settle(template.replace("{dates}", dates)), template
        n = int(random.integers(1, 5))
        end = self.recent - int(random.integers(0, 8))
        ends = [end := end - int(random.integers(1, 5)) for _ in range(n)]
        has_school = n > 1 and chance(random, 0.3)
        entries = [self.fill(template, self.studies(ends[i], school=has_school and i == n - 1)) for i in range(n)]
        if chance(random, 0.2):
            entries.reverse()
        section = self.section("education", pick(random, look.schooling), [])
        if "\t" in columns and "\n" not in columns and chance(random, 0.3):
            entries = [self.row_of_titles(columns), *entries]
        return section._replace(entries=entries)

    def row_of_titles(self, template: str) -> LabelledText:
        """The first row of a table: the names of its columns."""
        words = {"institution": ("University", "Institution", "School"), "degree": ("Degree", "Qualification")}
        words |= {"dates": ("Year", "Dates", "Period"), "grade": ("Grade", "Result"), "city": ("Place", "City")}
        return LabelledText(_PLACEHOLDER.sub(lambda m: pick(self.random, words.get(m[1], ("",))), template))

    def studies(self, end: int, *, school: bool) -> dict[str, str]:
        values = {
            "institution": self.names.institution(self.random, school=school),
            "degree": self.names.degree(self.random, school=school, short=self.short_degrees),
            "year": str(end),
            "start": str(end - int(self.random.integers(1, 6))),
        }
        return {k: v.upper() if self.capitals.get(k) else v for k, v in values.items()}

    def experience(self) -> Section:
        random, look = self.random, self.layouts
        template, dates = pick(random, look.experience), pick(random, look.work_dates)
        if chance(random, look.composed):
            employer = pick(random, ("{company}", "{company}", "{other_institution}"))
            template = compose(random, (employer, "{job}", "{dates}"), _BESIDE_A_JOB, _WORK_KEYS)
        template = self.settle(template.replace("{dates}", dates))
        return self.section("experience", pick(random, look.work), [template] * int(random.integers(1, 5)))

    def other(self, titles: tuple[str, ...], entries: tuple[str, ...]) -> Section:
        random, template = self.random, pick(self.random, entries)
        if chance(random, self.layouts.composed / 2):
            what, where = pick(random, _OTHER_THINGS), pick(random, ("{other_institution}", "{company}", "{city}"))
            template = self.settle(compose(random, (what, where, "{end}"), _BESIDE_A_JOB, _OTHER_KEYS))
        return self.section("other", pick(random, titles), [template] * int(random.integers(1, 4)))

    def section(self, kind: str, title: str, templates: list[str]) -> Section:
        title = self.settle(title)
        heading = self.fill(self.heading, {"h": title, "H": title.upper(), "rule": self.rule}).text
        return Section(kind, title, heading, [self.fill(template, {}) for template in templates])

    def settle(self, template: str) -> str:
        """Put in the words and signs that are to be the same in every entry."""
        return re.sub(r"\{(word|Word|sign)\d?\}", lambda found: self.draw(found[1]), template)

    def fill(self, template: str, values: dict[str, str]) -> LabelledText:
        """Put values into a template; those of FIELDS become spans."""
        values = self.style | {"end": str(self.recent - int(self.random.integers(0, 15)))} | values
        values.setdefault("start", str(int(values["end"]) - int(self.random.integers(1, 6))))
        parts, place = [], 0
        for found in _PLACEHOLDER.finditer(template):
            name = found[1]
            if name not in values:
                values[name] = self.fill(self.draw(name.rstrip("23")), {}).text
            value = values[name]
            spans = (Span(0, len(value), name),) if name in FIELDS else ()
            parts += [LabelledText(template[place : found.start()]), LabelledText(value, spans)]
            place = found.end()
        return join([*parts, LabelledText(template[place:])])

    def draw(self, name: str) -> str:
        """A value of a placeholder; it may be a template again."""
        random, n = self.random, self.names
        if name == "month":
            month = pick(random, _MONTHS)
            return month[:3] if self.short_months else month
        if name in ("word", "Word"):
            return names.word(random) if name == "word" else names.word(random).capitalize()
        if name == "phone":
            digits = "".join(map(str, random.integers(0, 10, 10)))
            return pick(random, ("+{0} {1} {2}", "0{1}-{2}", "({1}) {2}")).format(digits[:2], digits[2:5], digits[5:])
        draws = {
            "sign": lambda: pick(random, _SIGNS),
            "city": lambda: n.place(random),
            "country": lambda: pick(random, names.COUNTRIES),
            "person": lambda: n.person(random),
            "PERSON": lambda: n.person(random).upper(),
            "family": lambda: n.family(random),
            "email": lambda: (
                f"{pick(random, n.given).lower()}.{n.family(random).lower()}@{n.place(random).lower()}.example"
            ),
            "company": lambda: n.company(random),
            "job": lambda: pick(random, n.jobs),
            "skill": lambda: pick(random, n.skills),
            "subject": lambda: n.subject(random),
            "other_institution": lambda: n.institution(random),
            "language": lambda: pick(random, _LANGUAGES),
            "grade": lambda: pick(random, _GRADES),
            "duty": lambda: pick(random, _DUTIES),
            "prize": lambda: pick(random, _PRIZES),
            "thesis": lambda: pick(random, _THESES),
            "birth": lambda: str(self.recent - self.age),
            "recent": lambda: str(self.recent),
            "mm": lambda: f"{random.integers(1, 13):02d}",
            "dd": lambda: str(random.integers(1, 29)),
            "n": lambda: str(random.integers(2, 20)),
            "number": lambda: str(random.integers(20, 900)),
            "postcode": lambda: str(random.integers(10000, 99999)),
        }
        return draws[name]()
