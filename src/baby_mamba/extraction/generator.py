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
from baby_mamba.extraction.composition import compose_dates, compose_entry, compose_heading, compose_title, rule, sign
from baby_mamba.extraction.layouts import Layouts
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
    "On the Use of {skill} in {subject}",
    *("{subject} and {subject2}: a Study of {city}", "A Short History of {subject}"),
    *("Models of {subject} since {birth}", "Towards Better {skill}"),
)
_GRADES = (
    *("First Class Honours", "Grade: 1.7", "GPA 3.8/4.0", "with distinction", "cum laude", "Upper Second Class", "2:1"),
    *("magna cum laude", "Grade point average: 3.6", "Merit", "Final grade 1.3", "Distinction", "GPA: 8.9 of 10"),
)
_LANGUAGES = ("English", "German", "French", "Spanish", "Polish", "Hindi", "Arabic", "Turkish", "Italian", "Mandarin")
_BESIDE_A_DEGREE = (
    *("{city}", "{city}", "{city}", "{city}, {country}", "{city}, {country}", "{country}", "{grade}", "{grade}"),
    *("Thesis: {thesis}", "{word} {thesis}", "{person}", "{prize}", "Department of {subject}", "{word} {grade}"),
    *("{word}: {subject}, {subject2}", "{n} {word} {word}", "{duty}", "Supervisor: {person}", "{Word}: {person}"),
    *("{Word} {word}: {grade}", "Result: {grade}", "{Word} {word} {subject}", "{Word} in {subject}", "{Word}: {city}"),
    *("{Word}: {grade}", "{Word} of {subject}", "Modules: {subject}, {subject2}, {subject3}"),
    *("Place: {city}", "{skill}"),
)
_BESIDE_A_JOB = (
    *("{city}", "{city}, {country}", "{duty}", "{duty}\n{b}{duty2}", "{person}", "{word} {skill}", "{n} {word}"),
    *("{subject}", "{Word} in {subject}", "{Word}: {city}", "{Word}: {person}"),
)
_EDUCATION_KEYS = {
    "{institution}": (
        *("University", "Institution", "School", "College", "Where", "Place of study", "Given by"),
        *("Organisation", "At"),
        *("Name of institution", "Name", "Studied at", "Academy", "Place", "Institute"),
    ),
    "{degree}": (
        *("Degree", "Qualification", "Title", "What", "Course of study", "Name of degree", "Programme", "Diploma"),
        *("Course", "Level", "Field of study", "Certificate", "Academic title"),
    ),
    "{dates}": (
        "Year",
        "Dates",
        "Period",
        "When",
        "Time",
        "Graduation",
        "Finished",
        "Date",
        "Years",
        "Duration",
        "End",
    ),
}
_WORK_KEYS = {
    "{company}": ("Company", "Employer", "Firm", "Where", "Name"),
    "{other_institution}": ("Company", "Employer", "Institution", "Where", "Organisation", "University"),
    "{job}": ("Position", "Job", "Title", "Role", "What"),
    "{dates}": ("Year", "Dates", "Period", "When", "Time", "Years"),
}
_OTHER_THINGS = ("{prize}", "{skill}", "{thesis}", "{subject}", "{skill} {word}", "{word} {subject}", "{person}")
_OTHER_KEYS = dict.fromkeys(
    (*_OTHER_THINGS, "{other_institution}", "{company}", "{city}", "{dates}"), ("Name", "Where", "Topic", "Institution")
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
    return write_cv(random, *((layouts.HELD_OUT, names.HELD_OUT) if held_out else (layouts.TRAINING, names.TRAINING)))


def write_cv(random: Random, look: Layouts, called: Names) -> CV:
    """A CV in a layout and with names of these collections.

    Args:
        random: is advanced.
        look: templates, such as `layouts.TRAINING`.
        called: parts of names, such as `names.TRAINING`.
    """
    return _Writer(random, look, called).cv()


def as_read(labelled: LabelledText, random: Random) -> LabelledText:
    """The text as a reader may get it: as it is, or from a page, with other white space and with lines that are broken.

    From a page, columns come with tabs, with spaces or on lines of their own; empty lines and indents get lost; long
    lines are broken, some of them within a word; stretched ones have wider spaces.
    """
    if chance(random, 0.25):
        return labelled
    if chance(random, 0.7):
        labelled = break_cells(labelled, int(random.integers(12, 40)))
    column = pick(random, ("\t", "\t", " ", "   ", "      ", "\n"))
    labelled = edit(labelled, ((m.start(), m.end(), column) for m in re.finditer("\t", labelled.text)))
    if chance(random, 0.3):
        labelled = edit(labelled, ((m.start(), m.end(), "\n") for m in re.finditer(r"\n\s+", labelled.text)))
    if chance(random, 0.15):
        labelled = edit(labelled, ((m.start(), m.end(), " ") for m in re.finditer(r" {2,}", labelled.text)))
    if chance(random, 0.4):
        width = int(random.integers(20, 45) if chance(random, 0.4) else random.integers(45, 100))
        labelled = break_lines(labelled, random, width, hyphenate=pick(random, (0.0, 0.3, 1.0)), ragged=0.15)
    if chance(random, 0.15):
        lines = (line for line in re.finditer(".+", labelled.text) if chance(random, 0.3))
        spaces = (line.start() + space for line in lines for space, c in enumerate(line.group()) if c == " ")
        labelled = edit(labelled, ((space, space, " ") for space in spaces))
    return labelled


def break_lines(
    labelled: LabelledText, random: Random, width: int, *, hyphenate: float = 0.0, ragged: float = 0.0
) -> LabelledText:
    """Break lines that are longer than `width`, as a page does, between words or within one.

    Args:
        labelled: line breaks that are in it stay.
        random: chooses which words are divided.
        width: characters.
        hyphenate: share of the words at a break that are divided, if they are long enough.
        ragged: share of the width by which some lines are shorter, as letters are not equally wide.
    """
    cuts: list[tuple[int, int, str]] = []
    line_start = 0
    for word in re.finditer(r"\S+", labelled.text):
        before = labelled.text[line_start : word.start()]
        if "\n" in before:
            line_start += before.rindex("\n") + 1
        limit = int(width * random.uniform(1 - ragged, 1))
        room = limit - (word.start() - line_start) - 1  # for a part of the word, beside a hyphen
        if word.end() - line_start <= limit or not before.strip():
            continue
        divisible = word.group().isalpha() and len(word.group()) >= 6 and room >= 3
        if divisible and chance(random, hyphenate):
            line_start = word.start() + min(room, len(word.group()) - 3)
            cuts.append((line_start, line_start, "-\n"))
        elif labelled.text[word.start() - 1] == " ":
            line_start = word.start()
            cuts.append((line_start - 1, line_start, "\n"))
    return edit(labelled, cuts)


def break_cells(labelled: LabelledText, width: int) -> LabelledText:
    """Write the cells of rows one after the other, as a .pdf has them, each in as many lines as it needs.

    Args:
        labelled: between cells are tabs.
        width: of a cell, in characters.
    """
    cuts: list[tuple[int, int, str]] = []
    for cell in re.finditer(r"(?<=\t)[^\t\n]+|[^\t\n]+(?=\t)", labelled.text):
        line_start, after = cell.start(), " "
        for space in re.finditer(r"(?<=\S) (?=(\S+))", cell.group()):
            if cell.start() + space.end(1) - line_start > width:
                line_start, after = cell.start() + space.end(), "\n"
                cuts.append((line_start - 1, line_start, "\n"))
        if labelled.text[cell.end() : cell.end() + 1] == "\t":
            cuts.append((cell.end(), cell.end() + 1, after))
    return edit(labelled, cuts)


class _Writer:
    """Draws the choices of one CV, and fills in its templates."""

    def __init__(self, random: Random, look: Layouts, called: Names) -> None:
        self.random, self.layouts, self.names = random, look, called
        self.style = {
            "s": f" {sign(random)} " if self.composes() else pick(random, self.layouts.separators),
            "b": pick(random, ("", f"{sign(random)} ")) if self.composes() else pick(random, self.layouts.bullets),
            "d": pick(random, self.layouts.dashes),
        }
        self.short_months, self.short_degrees = chance(random, 0.4), chance(random, 0.5)
        self.capitals = {field: chance(random, 0.08) for field in ("institution", "degree")}
        self.recent = int(random.integers(2005, 2031))
        self.age = int(random.integers(22, 50))

    def cv(self) -> CV:
        random, look = self.random, self.layouts
        self.heading = self.settle(compose_heading(random) if self.composes() else pick(random, look.headings))
        self.rule = rule(random) if self.composes() else pick(random, "-=_*~") * int(random.integers(3, 40))
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
        if self.composes():
            values = ("{institution}", "{degree}", "{dates}")
            template = compose_entry(random, values, _BESIDE_A_DEGREE, _EDUCATION_KEYS)
            dates = compose_dates(random, "{year}")
        template, columns = self.settle(template.replace("{dates}", dates)), template
        n = int(random.integers(1, 5))
        end = self.recent - int(random.integers(0, 8))
        ends = [end := end - int(random.integers(1, 5)) for _ in range(n)]
        has_school = n > 1 and chance(random, 0.3)
        entries = [self.fill(template, self.studies(ends[i], school=has_school and i == n - 1)) for i in range(n)]
        if chance(random, 0.2):
            entries.reverse()
        section = self.section("education", look.schooling, [])
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
        if self.composes():
            employer = pick(random, ("{company}", "{company}", "{other_institution}"))
            template = compose_entry(random, (employer, "{job}", "{dates}"), _BESIDE_A_JOB, _WORK_KEYS)
            dates = compose_dates(random, "{end}")
        template = self.settle(template.replace("{dates}", dates))
        return self.section("experience", look.work, [template] * int(random.integers(1, 5)))

    def other(self, titles: tuple[str, ...], entries: tuple[str, ...]) -> Section:
        random, template = self.random, pick(self.random, entries)
        if self.composes():
            what, where = pick(random, _OTHER_THINGS), pick(random, ("{other_institution}", "{company}", "{city}"))
            template = compose_entry(random, (what, where, "{dates}"), _BESIDE_A_JOB, _OTHER_KEYS)
            template = self.settle(template.replace("{dates}", compose_dates(random, "{end}")))
        return self.section("other", titles, [template] * int(random.integers(1, 4)))

    def section(self, kind: str, titles: tuple[str, ...], templates: list[str]) -> Section:
        title = compose_title(self.random, titles) if self.composes() else pick(self.random, titles)
        title = self.settle(title)
        heading = self.fill(self.heading, {"h": title, "H": title.upper(), "rule": self.rule}).text
        return Section(kind, title, heading, [self.fill(template, {}) for template in templates])

    def composes(self) -> bool:
        """Whether the next choice is put together from parts, or one of a list."""
        return chance(self.random, self.layouts.composed)

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
            "sign": lambda: sign(random),
            "city": lambda: n.place(random),
            "country": lambda: pick(random, names.COUNTRIES),
            "person": lambda: n.person(random),
            "PERSON": lambda: n.person(random).upper(),
            "family": lambda: n.family(random),
            "email": lambda: (
                f"{pick(random, n.given).lower()}.{n.family(random).lower()}@{n.family(random).lower()}.example"
            ),
            "company": lambda: n.company(random),
            "job": lambda: n.job(random),
            "skill": lambda: n.skill(random),
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
