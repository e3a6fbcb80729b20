"""Invented names: people, places, institutions and companies put together from syllables, and degrees.

There are three collections, one to train on and two to test with. Those to test with share no syllable, no subject and
no company with the one to train on. No place here is meant to exist; titles of degrees are the usual ones, in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TypeVar

import numpy as np

Random = np.random.Generator
T = TypeVar("T")


def pick(random: Random, options: Sequence[T]) -> T:
    """One of the options, all as likely."""
    return options[int(random.random() * len(options))]  # several times as fast as random.integers


def chance(random: Random, probability: float) -> bool:
    """True with this probability."""
    return bool(random.random() < probability)


_ONSETS = (
    *"bdfghjklmnprstvwz",
    "bl",
    "br",
    "ch",
    "cl",
    "dr",
    "fl",
    "fr",
    "gl",
    "gr",
    "kr",
    "pl",
    "qu",
    "sch",
    "sh",
    "st",
    "tr",
)
_NUCLEI = (*"aeiouaeiou", "ai", "au", "ea", "ee", "ei", "ie", "oa", "oo", "ou", "ä", "é", "ö", "ü", "ó", "y")
_CODAS = (
    *("",) * 12,
    *"lnrstkmdgp",
    "nd",
    "rg",
    "ss",
    "ck",
    "lt",
    "rn",
    "sk",
    "th",
    "ng",
    "ns",
    "rd",
    "ff",
    "x",
    "z",
)


def word(random: Random, syllables: int | None = None) -> str:
    """A word that means nothing, in small letters. What is learnt from such words holds for words never seen."""
    n = syllables or pick(random, (1, 2, 2, 2, 3))
    made = "".join(pick(random, _ONSETS) + pick(random, _NUCLEI) + pick(random, _CODAS) for _ in range(n))
    return word(random, syllables) if _held_out_parts().search(made) else made


def house(random: Random) -> str:
    """What an institution calls itself; also in languages that nobody knows."""
    if chance(random, 0.65):
        return pick(random, HOUSES)
    beginning = pick(random, ("univers", "univers", "coll", "inst", "acad", "conserv", "poly", "", ""))
    return (beginning + word(random, pick(random, (1, 1, 2)))).capitalize()


@cache
def _held_out_parts() -> re.Pattern:
    parts = (part for n in (HELD_OUT, BLIND) for part in (n.place_starts, n.place_ends, n.family_starts, n.family_ends))
    return re.compile("|".join(chain.from_iterable(parts)).lower())


def compose_institution(random: Random) -> str:
    """A template of what an institution may be called, in any language."""
    name = pick(random, ("{place}", "{place}", "{place}", "{family}", "{word}", "{place}-{place2}", "{place} {family}"))
    kind = pick(random, ("{noun}", "{noun}", "{noun}", "{quality} {noun}", "{quality} {noun}", "{noun} {quality}"))
    of = pick(random, (*PREPOSITIONS, word(random, 1)[:3]))
    forms = (
        *("{kind} {of} {name}", "{kind} {of} {name}", "{name} {kind}", "{name} {kind}", "{kind} {name}"),
        *("{name} {kind} {of} {area}", "{kind} {of} {area}", "{kind} {of} {area} {name}", "{name} {area} {kind}"),
        *("{kind} {of} {area} {of} {name}", "The {kind} {of} {name}", "The {name} {kind}", "{kind} {name} {place2}"),
        *("St. {name} {kind}", "{acronym} {name}", "{acronym} {word}", "{point} {name} {kind}"),
    )
    return pick(random, forms).replace("{kind}", kind).replace("{of}", of).replace("{name}", name)


def compose_degree(random: Random) -> str:
    """A template of a degree: title and subject in any order, with what is usual between them."""
    title = pick(random, ("{title}", "{title}", "{title}", "{level}"))
    title += (
        f" ({word(random, 1).capitalize()}{pick(random, ('', '.'))})" if chance(random, 0.1) else pick(random, HONOURS)
    )
    if chance(random, 0.1):
        return title
    two = ("{subject} and {subject2}", "{subject} & {subject2}", "{subject}/{subject2}", "{subject} with {subject2}")
    subject = pick(random, two) if chance(random, 0.15) else "{subject}"
    between = (", ", ", ", " ", " ", ": ", " - ", " – ", " / ", "; ", " | ", " (", " (", " (", " [")
    if chance(random, 0.7):
        first, second, between = title, subject, (" in ", " in ", " in ", " in ", " of ", " for ", " on ", *between)
    else:
        first, second = subject, title
    joint = pick(random, between)
    return first + joint + second + {" (": ")", " [": "]"}.get(joint, "")


@dataclass(frozen=True)
class Names:
    """A collection of parts from which names are made."""

    place_starts: tuple[str, ...]
    place_ends: tuple[str, ...]
    given: tuple[str, ...]
    family_starts: tuple[str, ...]
    family_ends: tuple[str, ...]
    subjects: tuple[str, ...]
    company_words: tuple[str, ...]
    jobs: tuple[str, ...]
    skills: tuple[str, ...]
    institutions: tuple[str, ...]
    degrees: tuple[str, ...]  # how title and subject are put together
    listed: float  # share of the names that are made of these parts alone; the others are put together at random

    def place(self, random: Random) -> str:
        """A town."""
        if chance(random, self.listed):
            return pick(random, self.place_starts) + pick(random, self.place_ends)
        name = word(random, pick(random, (1, 1, 2, 2))).capitalize() + pick(
            random, ("", "", pick(random, self.place_ends))
        )
        return pick(random, PLACES).format(name, word(random, 1).capitalize(), word(random, 1)[:3].capitalize())

    def family(self, random: Random) -> str:
        """A family name."""
        if not chance(random, self.listed):
            return word(random, 2).capitalize()
        return pick(random, self.family_starts) + pick(random, self.family_ends)

    def person(self, random: Random) -> str:
        """Given and family name."""
        given = pick(random, self.given) if chance(random, self.listed) else word(random).capitalize()
        return f"{given} {self.family(random)}"

    def job(self, random: Random) -> str:
        """What someone works as."""
        job = pick(random, self.jobs)
        if chance(random, self.listed):
            return job
        made = word(random).capitalize()
        return pick(random, (job, "{0} {1}", "{1} {0}er", "Senior {1}", "Head of {0}", "{0}er", "{1} ({0})")).format(
            made, job
        )

    def skill(self, random: Random) -> str:
        """What someone can do; some look like the short title of a degree."""
        if chance(random, self.listed):
            return pick(random, self.skills)
        return pick(random, (acronym(random), word(random), word(random).capitalize(), pick(random, self.skills)))

    def subject(self, random: Random) -> str:
        """What is studied."""
        if chance(random, self.listed):
            return pick(random, self.subjects)
        adjective = pick(random, ADJECTIVES) if chance(random, 0.75) else word(random).capitalize()
        noun = pick(random, SCIENCES) if chance(random, 0.75) else word(random).capitalize()
        made = pick(random, SUBJECTS).format(adjective, noun, pick(random, SCIENCES), pick(random, ADJECTIVES))
        return self.subject(random) if made in (*HELD_OUT.subjects, *BLIND.subjects) else made

    def institution(self, random: Random, *, school: bool = False) -> str:
        """Where it is studied: a university or the like, or a school."""
        template = pick(random, SCHOOLS if school else self.institutions)
        if not chance(random, max(self.listed, school)):
            template = compose_institution(random)
        return template.format(
            place=self.place(random),
            place2=self.place(random),
            family=self.family(random),
            point=pick(random, POINTS),
            area=pick(random, AREAS) if chance(random, 0.8) else self.subject(random),
            noun=house(random),
            word=word(random).capitalize(),
            quality=pick(random, QUALITIES) if chance(random, 0.6) else word(random).capitalize(),
            acronym=acronym(random),
        )

    def degree(self, random: Random, *, school: bool = False, short: bool | None = None) -> str:
        """A degree, with its subject as a rule; of a school, its certificate."""
        if school:
            return pick(random, CERTIFICATES)
        short = chance(random, 0.5) if short is None else short
        template, title = pick(random, self.degrees), pick(random, SHORT_TITLES if short else TITLES)
        if not chance(random, self.listed):
            template = compose_degree(random)
            if chance(random, 0.3):
                title = _title(random, short)
        return template.format(
            title=title,
            level=pick(random, LEVELS),
            subject=self.subject(random),
            subject2=self.subject(random),
        )

    def company(self, random: Random) -> str:
        """An employer; some are named after a place or a person, as institutions are."""
        name = pick(random, (pick(random, self.company_words), self.family(random), self.place(random)))
        if chance(random, 1 - self.listed):
            name = f"{name} {word(random).capitalize()}" if chance(random, 0.3) else word(random).capitalize()
        return f"{name} {pick(random, COMPANY_ENDS)}"


def acronym(random: Random) -> str:
    """Two to four capitals."""
    return "".join(pick(random, "ABCDEFGHIKLMNOPRSTUVWXZ") for _ in range(random.integers(2, 5)))


def _title(random: Random, short: bool) -> str:
    """A title that may be one."""
    if not short:
        grade = pick(random, ("Bachelor", "Master", "Doctor", "Licence", "Diploma", "Certificate", "Candidate"))
        return f"{grade} of {pick(random, SCIENCES) if chance(random, 0.7) else word(random).capitalize()}"
    letters = pick(random, "BMBMDL") + acronym(random)[1:]
    return pick(random, (letters, ".".join(letters) + ".", f"{letters[0]}.{letters[1:].capitalize()}."))


TITLES = (
    *("Bachelor of Science", "Master of Science", "Bachelor of Arts", "Master of Arts", "Bachelor of Engineering"),
    *("Master of Engineering", "Master of Business Administration", "Doctor of Philosophy", "Bachelor of Laws"),
    *("Master of Laws", "Bachelor of Fine Arts", "Master of Public Health", "Bachelor of Education", "Diploma"),
    *("Master of Education", "Bachelor of Technology", "Master of Philosophy", "Associate of Arts", "Doctorate"),
    *("Postgraduate Diploma", "Associate of Science", "Bachelor of Commerce", "Master of Research", "Magister"),
)
SHORT_TITLES = (
    *("BSc", "B.Sc.", "BS", "B.S.", "BA", "B.A.", "MSc", "M.Sc.", "MS", "M.S.", "MA", "M.A.", "PhD", "Ph.D.", "MBA"),
    *("BEng", "B.Eng.", "MEng", "M.Eng.", "LLB", "LL.M.", "MPhil", "DPhil", "Dipl.-Ing.", "BEd", "BFA", "MPH", "BTech"),
    *("M.Ed.", "B.Com.", "MSci", "MRes", "PGDip", "B.Tech", "M.Phil.", "Mag.", "Dr. phil."),
)
LEVELS = ("Bachelor", "Master", "Bachelor's degree", "Master's degree", "Doctoral degree", "Honours degree", "Diploma")
CERTIFICATES = (
    *("High School Diploma", "A-levels", "A Levels", "Abitur", "International Baccalaureate", "Baccalauréat", "Matura"),
    *("Secondary School Certificate", "GCE A-Level", "Higher School Certificate", "IB Diploma", "Leaving Certificate"),
)
SCHOOLS = (
    *("{place} High School", "{place} Grammar School", "Gymnasium {place}", "Lycée {family}", "{place} Academy"),
    *("St. {family} School", "{point} {place} Secondary School", "Liceo {family}", "{place} Sixth Form College"),
)
HOUSES = (
    *("University", "College", "Institute", "Academy", "School", "Polytechnic", "Universität", "Université", "Uni"),
    *("Conservatory", "Conservatorium", "Polytech", "Art College", "Music School", "Politecnico", "Scuola", "Kolleg"),
    *("Universidad", "Universidade", "Uniwersytet", "Universitet", "Hochschule", "Institut", "Instituto", "Akademie"),
    *("Yliopisto", "Egyetem", "Universitas", "Univerzita", "Högskola", "Haute École", "Facultad", "Kollegium"),
    *("Centre", "Foundation", "Faculty of Arts", "Studium", "Lyceum", "Institution", "Daigaku", "Vidyapeeth", "Ateneo"),
    *("Graduate School", "Business School", "State University", "Technical University", "University Centre", "Escuela"),
    "Seminary",
)
ADJECTIVES = (
    *("Theoretical", "Modern", "Comparative", "International", "Digital", "Clinical", "Computational", "Industrial"),
    *("Medical", "Social", "Global", "European", "Urban", "Cognitive", "Creative", "Sustainable", "Strategic", "Early"),
    *("Structural", "Organic", "Financial", "Mechanical", "Chemical", "Cultural", "Legal"),
    *("Experimental", "Electrical"),
    *("Civil", "Public", "Political", "Visual", "Performing", "Molecular", "Human", "Natural", "General", "Classical"),
    *("Asian", "African", "Ancient", "Religious", "Marine", "Environmental", "Quantitative", "Data"),
    *("Software", "Hotel"),
    *("Music", "Food", "Fire", "Sport", "Art", "Event", "Water", "Network", "Crop", "Textile", "Theatre", "Health"),
    *("Child", "Family", "Tourism", "Retail", "Project", "Language", "Product", "Web", "Land", "Energy", "Market"),
)
SCIENCES = (
    *("Physics", "Biology", "Engineering", "Studies", "Management", "Science", "History", "Economics", "Linguistics"),
    *("Design", "Literature", "Law", "Technology", "Arts", "Psychology", "Education", "Analytics", "Chemistry", "Care"),
    *("Relations", "Planning", "Politics", "Media", "Systems", "Therapy", "Finance", "Energy", "Geology", "Sciences"),
    *("Policy", "Security", "Marketing", "Research", "Development", "Communication", "Administration", "Statistics"),
    *("Philosophy", "Production", "Painting", "Nutrition", "Optics", "Ecology", "Logic", "Ethics", "Surgery"),
)
SUBJECTS = (
    *("{0} {1}", "{0} {1}", "{0} {1}", "{0} {1}", "{1}", "{1}", "{1}", "{1} & {0} Methods", "{0} {1} and {2}"),
    *("{1} of {2}", "{1} and {2}", "{1} & {2}", "{0} and {3} {1}", "{3} {0} {1}", "{1} {2}"),
)
HONOURS = (*("",) * 12, " (Hons)", " (Honours)", " Hons", " with Honours", " degree", " (Honors)")
QUALITIES = (
    *("State", "Technical", "Open", "National", "Catholic", "Federal", "Royal", "Free", "Medical", "Pedagogical"),
    *("Agricultural", "Community", "Junior", "Normal", "Nationale", "Técnica", "Popular", "International", "Private"),
)
PREPOSITIONS = ("of", "of", "of", "of", "of", "de", "di", "du", "des", "da", "von", "für", "for", "van", "za", "w")
PLACES = (
    *("{0}",) * 20,
    *("St. {0}", "San {0}", "Santa {0}", "La {0}", "Le {0}", "Bad {0}", "{2} {0}", "{2} {0}", "{2}. {0}", "{0} am {1}"),
    *("{0}-sur-{1}", "{0} upon {1}", "Mount {0}", "Fort {0}", "{0} City", "{1} {0}", "{1}-{0}", "New {0}", "{0}-{1}"),
)
POINTS = ("North", "South", "East", "West", "Upper", "New", "Royal", "Central")
AREAS = ("Technology", "Economics", "Applied Sciences", "Music", "Arts and Design", "Medicine", "Business", "Law")
COMPANY_ENDS = (
    *("Ltd", "Ltd.", "GmbH", "Inc.", "LLC", "AG", "Systems", "Consulting", "& Sons", "Software", "Logistics", "Bank"),
    *("Engineering", "Hospital", "City Council", "Research", "Media", "Foods", "Labs", "Partners", "Airlines", "Group"),
)
COUNTRIES = ("Germany", "UK", "USA", "France", "Canada", "India", "Spain", "Poland", "Austria", "Ireland")

_COMMON_INSTITUTIONS = (
    *("University of {place}", "University of {place}", "{place} University", "{place} University", "{place} College"),
    *("{place} Institute of Technology", "Technical University of {place}", "{place} State University"),
    *("University of {area} {place}", "{family} School of {area}", "{point} {place} University", "TU {place}"),
)

TRAINING = Names(
    place_starts=(
        *("Bral", "Cor", "Drel", "Esk", "Fald", "Grim", "Hol", "Ilm", "Jar", "Kel", "Lorn", "Mar", "Nor", "Orr"),
        *("Pell", "Quar", "Rav", "Sel", "Tarn", "Ul", "Vel", "Wes", "Yar", "Zel", "Saint-Am", "Bad Or", "Al", "Ber"),
        *("Cast", "Dun", "El", "Fen", "Gar", "Harl", "Is", "Kar", "Lin", "Mon", "Nied", "Ost", "Port Em", "Rost"),
        *("San Vel", "Tor", "Und", "Val", "Wil", "São Per", "Öst", "Mün"),
    ),
    place_ends=(
        *("mere", "wick", "stead", "holm", "brook", "ford", "dorf", "stadt", "borg", "ville", "mont", "ona", "anza"),
        *("field", "haven", "ton", "moor", "by", "ów", "ice", "ano", "egg", "lund", "bruck", "ières", "ora", "gate"),
    ),
    given=(
        *("Anna", "Ben", "Carla", "Dario", "Elif", "Farah", "Goran", "Helen", "Ivo", "Jana", "Karim", "Lena", "Milo"),
        *("Nadia", "Olek", "Priya", "Ravi", "Sofia", "Tomás", "Uma", "Viktor", "Wanda", "Yusuf", "Zoe", "José", "Mei"),
    ),
    family_starts=(
        *("Hart", "Kow", "Lind", "Mor", "Nev", "Ols", "Pet", "Quin", "Ros", "Sand", "Thal", "Vog", "Wern", "Bar"),
        *("Cast", "Dem", "Eng", "Fal", "Gup", "Haw", "Iv", "Jens", "Kap", "Lam", "Mül", "Oka", "Ser", "Tan"),
    ),
    family_ends=("mann", "ski", "sen", "ov", "ez", "er", "ini", "ard", "oglu", "well", "berg", "ta", "ström", "es"),
    subjects=(
        *("Physics", "Computer Science", "History", "Mechanical Engineering", "Economics", "Biology", "Philosophy"),
        *("Mathematics", "Chemistry", "Business Administration", "Electrical Engineering", "English Literature", "Law"),
        *("Psychology", "Marketing", "Nursing", "Architecture", "Music", "Data Science", "Public Policy", "Geography"),
        *("Civil Engineering", "International Relations", "Finance", "Graphic Design"),
        *("Political Science", "Statistics"),
        *("Environmental Science", "Software Engineering", "Medicine", "Art History", "Accounting and Finance"),
        *("Human Resource Management", "Materials Science", "Theology", "Media and Communication", "Sports Science"),
        *("Entomology", "Oceanography", "Metallurgy", "Cartography", "Archaeology", "Immunology"),
        *("Toxicology", "Latin"),
        *("Cosmology", "Musicology", "Meteorology", "Gastronomy", "Choreography", "Ceramics"),
        *("Photography", "Museology"),
        *("Automotive Engineering", "Biomedical Engineering", "Petroleum Engineering", "Insurance"),
        *("Taxation", "Banking"),
        *("Entrepreneurship", "Criminal Justice", "Peace Studies", "Gender Studies", "Romance Languages", "Forestry"),
        *("Horticulture", "Food Technology", "Cybersecurity", "Artificial Intelligence"),
        *("Cryptography", "Bioinformatics"),
        *("Econometrics", "Mechatronics", "Acoustics", "Photonics", "Nanotechnology"),
        *("Aviation Management", "Dietetics"),
        *("Occupational Health", "Radiography", "Kinesiology", "Greek Philology"),
        *("Marine Biology", "Interior Decoration"),
    ),
    company_words=(
        *("Northwind", "Bluestone", "Acutus", "Helion", "Datavia", "Kestrel", "Orbis", "Lumenta"),
        *("Greenfold", "Pixelo"),
        *("Quantor", "Riverline", "Stratum", "Terrapin", "Unidelta", "Vectis", "Zenitor", "Alphagrid", "Cobalt"),
    ),
    jobs=(
        *("Software Engineer", "Research Assistant", "Project Manager", "Sales Assistant", "Data Analyst", "Nurse"),
        *("Teaching Assistant", "Marketing Manager", "Consultant", "Intern", "Waiter", "Accountant", "Lecturer"),
        *("Product Owner", "Mechanical Engineer", "Editor", "Team Leader", "Laboratory Technician", "Barista"),
        *("Head of Operations", "Junior Developer", "Policy Adviser", "Store Manager", "Postdoctoral Researcher"),
    ),
    skills=(
        *("Python", "Excel", "project management", "public speaking", "SQL", "Photoshop", "negotiation", "Java"),
        *("statistics", "teamwork", "LaTeX", "budgeting", "AutoCAD", "customer service", "R", "first aid", "C++"),
        *("time management", "copywriting", "Linux", "machine learning", "event planning", "SAP", "MATLAB"),
    ),
    institutions=(
        *_COMMON_INSTITUTIONS,
        *("{noun} {place}", "{place} {noun}", "{place} {noun} of {area}"),
        *("{noun} of {area} {place}", "{family} {noun}"),
        *("{noun} of {place}", "{noun} de {place}", "{noun} di {place}", "{point} {place} {noun}", "{noun} for {area}"),
        *("Royal {noun} of {area}", "{noun} of {place} at {place2}", "{noun} of {area} in {place}", "UC {place}"),
        *("{place}-{place2} {noun}", "École {family}", "Fachhochschule {place}"),
        *("The {noun} of {place}", "{place} {area} {noun}"),
        *("{place} {word}", "{word} {place}", "{word} of {area}", "{place} Medical School"),
        *("The {noun} of {point} {place}", "{family} and {place} {noun}", "St. {family} {noun}"),
    ),
    degrees=(
        *("{subject} ({title})", "{subject}; {title}", "{subject} | {title}"),
        *("{subject} [{title}]", "{subject} – {title}"),
        *("{title} in {subject}", "{title} in {subject}", "{title} {subject}", "{title}, {subject}", "{title}"),
        *("{title} ({subject})", "{title} (Hons) {subject}", "{title} (Hons) in {subject}", "{subject} ({title})"),
        *("{level} in {subject}", "{level} of {subject}", "{title} in {subject} and {subject2}", "{title} - {subject}"),
        *("{title} (Hons), {subject}", "{title} with Honours in {subject}"),
        *("{title} Hons {subject}", "{subject}, {title}"),
        *("{level}", "{title} degree in {subject}", "{title}: {subject}", "{subject} - {title}", "{title} / {subject}"),
        *("{subject} ({title})", "{subject}, {title}", "{subject} - {title}"),
        *("{subject} / {title}", "{subject} ({level})"),
        *("{subject}: {title}", "{title} in {subject} with {subject2}"),
        *("{title} for {subject}", "{title} on {subject}"),
        *("{title} (Honours) - {subject}", "Joint {title} in {subject} and {subject2}", "{title} {subject}/{subject2}"),
    ),
    listed=0.4,
)

HELD_OUT = Names(
    place_starts=(
        *("Thren", "Ombr", "Gwel", "Skor", "Pav", "Hux", "Lyr", "Brev", "Cald", "Ner", "Ash", "Dorv", "Vinc", "Mirr"),
        *("Saint-Ul", "Bad Kre", "Zwe", "Jor", "Etr", "Rud"),
    ),
    place_ends=("combe", "heim", "worth", "arra", "eno", "minster", "hausen", "chester", "mouth", "illy", "vik", "oro"),
    given=(
        "Adrian",
        "Bea",
        "Chidi",
        "Dunja",
        "Emre",
        "Fiona",
        "Gita",
        "Hugo",
        "Inés",
        "Jonas",
        "Kofi",
        "Lucia",
        "Nils",
    ),
    family_starts=("Abr", "Brack", "Chen", "Dall", "Ekw", "Frit", "Gren", "Huss", "Juh", "Kent", "Lop", "Mend", "Nyb"),
    family_ends=("ham", "vić", "ström-Lee", "ueme", "sch", "aris", "ley", "aro", "onen", "wick", "ula", "ado"),
    subjects=(
        *("Astronomy", "Linguistics", "Aerospace Engineering", "Anthropology", "Biochemistry", "Information Systems"),
        *("Applied Mathematics", "Sociology", "Industrial Design", "Veterinary Science", "Journalism", "Neuroscience"),
        *("Supply Chain Management", "Film Studies", "Pharmacy", "Robotics", "Social Work", "Agricultural Economics"),
    ),
    company_words=(
        "Brightwater",
        "Corvex",
        "Deltaform",
        "Everpeak",
        "Fluxion",
        "Ironbark",
        "Mosaiq",
        "Parallax",
        "Sylvan",
    ),
    jobs=(
        *("Web Developer", "Research Fellow", "Account Manager", "Tutor", "Business Analyst", "Pharmacist", "Cashier"),
        *("Graduate Trainee", "Systems Administrator", "Journalist", "Laboratory Assistant", "Operations Director"),
    ),
    skills=(
        *("JavaScript", "PowerPoint", "fundraising", "data analysis", "Figma", "conflict resolution", "Go", "Tableau"),
        *("proofreading", "Docker", "quality control", "bookkeeping", "SolidWorks", "leadership"),
    ),
    institutions=(
        *_COMMON_INSTITUTIONS,
        *("Università di {place}", "Universiteit {place}"),
        *("University College {place}", "{place} University of {area}"),
        *("{family} Institute", "{place} Conservatoire", "{place} Tech"),
    ),
    degrees=(
        *("{title} in {subject}", "{title} in {subject}", "{title} {subject}", "{title}, {subject}", "{title}"),
        *("{title} (Hons) {subject}", "{subject} ({title})"),
        *("{level} in {subject}", "{title} in {subject} & {subject2}"),
        *("{title} (Hons.) in {subject}", "{subject} {title}", "{title} of {subject}"),
    ),
    listed=1.0,
)

BLIND = Names(
    place_starts=(
        *("Arl", "Bex", "Cren", "Dag", "Elst", "Fro", "Gisl", "Hov", "Inv", "Jess", "Kirk", "Lov", "Mald", "Nyk"),
        *("Saint-Bri", "Bad Ho", "Santa Ro", "Pru", "Tew", "Vord", "Yel"),
    ),
    place_ends=("aby", "ingen", "shire", "port", "elle", "istan", "wald", "ness", "mar", "etta", "tal", "kirk"),
    given=(
        *(
            "Agnes",
            "Bruno",
            "Cyril",
            "Dora",
            "Enzo",
            "Freya",
            "Gustav",
            "Hana",
            "Idris",
            "Joana",
            "Kenji",
            "Luz",
            "Noor",
        ),
    ),
    family_starts=("Ack", "Bjor", "Cors", "Dray", "Esp", "Faw", "Gold", "Hein", "Ism", "Jov", "Kirch", "Lund", "Nak"),
    family_ends=("ander", "bach", "inho", "mura", "quist", "ridge", "stad", "thorpe", "vich", "yama", "zadeh", "ell"),
    subjects=(
        *("Cultural Anthropology", "Genetics", "Optometry", "Egyptology", "Creative Writing", "Public Administration"),
        *("Renewable Energy Systems", "Speech Therapy", "Microelectronics", "Early Childhood Education", "Logistics"),
        *("Translation Studies", "Naval Engineering", "Geophysics", "Fine Arts", "Textile Design", "Rural Development"),
    ),
    company_words=(
        *("Arclight", "Bellweather", "Coriolis", "Domino", "Elmtree", "Fulcrum", "Gyrolab", "Harbor", "Isotope"),
    ),
    jobs=(
        *("Backend Developer", "Social Worker", "Physiotherapist", "Logistics Planner", "Copy Editor", "Bank Clerk"),
        *("Graduate Assistant", "Site Manager", "Museum Guide", "Quality Engineer", "Office Assistant", "Sous-Chef"),
    ),
    skills=(
        *("TypeScript", "Keynote", "recruiting", "Stata", "illustration", "carpentry", "Rust", "Salesforce"),
        *("storytelling", "Kubernetes", "lab safety", "accounting", "CATIA", "facilitation"),
    ),
    institutions=(
        *_COMMON_INSTITUTIONS,
        *("Universitatea din {place}", "Hogskolan i {place}", "{place} Metropolitan University", "{family} Law School"),
        *("National {area} University of {place}", "{place} Vocational College", "Rijksuniversiteit {place}"),
    ),
    degrees=(
        *("{title} in {subject}", "{title} in {subject}", "{title} {subject}", "{title}, {subject}", "{title}"),
        *("{subject} ({title})", "{subject}, {title}", "{level} in {subject}", "{title} ({subject})"),
        *("{title} in {subject} and {subject2}", "{title} – {subject}"),
    ),
    listed=1.0,
)
