"""How CVs look: templates of their parts, in two collections, one to train on and one to test with.

In a template {institution}, {degree} and {year} stand for the values to be found, {dates} for one of the templates of
dates, {s}, {b} and {d} for the separator, bullet and dash that a CV has chosen, and all other names for values that are
not to be found. No template of an entry, of dates or of a heading is in both collections, and the templates of
education in the two differ in more than punctuation: in the order of the values or in what stands between them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layouts:
    """A collection of templates."""

    education: tuple[str, ...]  # one degree, with {dates} or {year}
    schooling: tuple[str, ...]  # headings of the section of education
    dates: tuple[str, ...]  # of a degree; {year} is the one in which it ends, or else the one that is given
    headings: tuple[str, ...]  # how a heading is set
    separators: tuple[str, ...]
    bullets: tuple[str, ...]
    dashes: tuple[str, ...]
    header: tuple[str, ...]
    composed: float  # share of the CVs whose templates of entries are put together from parts, at random
    experience: tuple[str, ...]
    work: tuple[str, ...]  # headings of the section of experience
    work_dates: tuple[str, ...]
    others: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]  # headings and entries of other sections


TRAINING = Layouts(
    education=(
        # on one line
        "{b}{degree}{s}{institution}{s}{dates}",
        "{b}{institution}{s}{degree}{s}{dates}",
        "{b}{dates}{s}{degree}{s}{institution}",
        "{b}{dates}{s}{institution}{s}{degree}",
        "{b}{degree}{s}{dates}{s}{institution}",
        "{b}{degree}, {institution} ({dates})",
        "{b}{degree}, {institution}, {city}, {dates}",
        "{b}{institution}, {city}: {degree} ({dates})",
        "{b}{dates}: {degree}, {institution}, {city}",
        "{b}{degree} ({dates}), {institution}",
        "{b}{degree} at {institution}, {dates}",
        "{b}{degree} from {institution}, {dates}",
        "{b}{dates}: {degree} ({grade}), {institution}",
        "{b}{institution} ({dates}): {degree}, {grade}",
        "{b}{degree}, {dates}, {institution}, {grade}",
        # on several
        "{degree}\n{institution}\n{dates}",
        "{degree}\n{institution}{s}{dates}",
        "{degree}\n{institution}, {city}\n{dates}",
        "{institution}\n{degree}\n{dates}",
        "{institution}{s}{city}\n{degree}{s}{dates}",
        "{institution}{s}{dates}\n{degree}",
        "{institution}{s}{dates}\n{b}{degree}\n{b}{grade}",
        "{dates}\n{degree}\n{institution}",
        "{dates}\n{institution}\n{degree}\nThesis: {thesis}",
        "{dates}\n{institution}, {city}\n{degree}",
        "{dates}{s}{degree}\n{institution}",
        "{dates}{s}{institution}\n{degree}",
        "{dates}  {institution}, {city}\n    {degree}\n    {grade}",
        "{degree}{s}{dates}\n{institution}{s}{city}\n{b}Thesis: {thesis}",
        "{degree}\n{dates}\n{institution}",
        "{degree}, {grade}\n{institution}, {dates}",
        "{b}{degree}\n  {institution}\n  {dates}\n  Supervisor: {person}",
        "{institution}, {city}{s}{dates}\n{degree}, {grade}\nModules: {subject}, {subject2}, {subject3}",
        "{degree}{s}{institution}\n{dates}{s}{city}\n{b}{prize}",
        "{city}, {country}\n{institution}\n{dates}\n{degree}",
        "{city}\n{degree}\n{dates}\n{institution}",
        "{city}, {country}\n{dates}\n{institution}\n{degree}",
        # tables
        "{dates}\t{degree}\t{institution}",
        "{dates}\t{institution}\t{degree}",
        "{degree}\t{institution}\t{dates}",
        "{institution}\t{degree}\t{dates}",
        "{institution}\t{degree}\t{dates}\t{grade}",
        "{dates}\t{degree}\n\t{institution}, {city}",
        "{dates}\t{institution}\n\t{degree}\n\t{grade}",
        "{institution}\t{dates}\n{degree}\t{city}",
        "{degree}\t{dates}\n{institution}",
        "{institution}\t{city}\n{degree}\t{dates}",
        "{dates}\t{city}\t{degree}\t{institution}",
        "{city}\t{institution}\t{degree}\t{dates}",
        # named values
        "Degree: {degree}\nInstitution: {institution}\nYear: {dates}",
        "University: {institution}\nDegree: {degree}\nDates: {dates}",
        "Dates: {dates}\nQualification: {degree}\nOrganisation: {institution}\nLevel: {grade}",
        # sentences
        "I studied at {institution} in {city}, where I received my {degree} in {year}.",
        "{degree} awarded by {institution} in {year}.",
        "In {year} I completed a {degree} in {city}, at {institution}.",
        "Graduated from {institution} in {city} with a {degree} in {year}.",
        "{person} holds a {degree} from {institution} ({year}).",
        "After {subject2} at school I went to {institution} and took a {degree} there ({dates}).",
        "Having finished school, I read for the {degree} at {institution} until {year}.",
        "In {year}, {institution} gave me a {degree}, {grade}.",
        "From {start} to {year} I was a student at {institution}; I left with a {degree}.",
        "My first degree was a {degree}, for which I wrote about {thesis}; {institution}, {year}.",
        "At {city} I began my {degree}, which {institution} gave me in {year}.",
        "My {degree} ({year}) is from {institution}.",
        "{institution}, {city}, made me a {degree} in {year}.",
        "The {degree} that I hold is from {institution}, {city}, and was finished in {year}.",
        # one of the three is not there
        "{b}{institution}{s}{dates}",
        "{b}{degree}{s}{institution}",
        "{b}{degree}{s}{dates}",
    ),
    schooling=(
        *("Education", "Education and Training", "Academic Background", "Studies", "Qualifications", "Degrees"),
        *("Academic Qualifications", "Educational Background", "Academic History", "University", "Academic Education"),
        *(
            "Education and Qualifications",
            "Educational History",
            "School and University",
            "Where I Studied",
            "Schooling",
        ),
        *("{Word} Education", "Education {Word}", "Academic {Word}", "{Word} Studies", "{Word} and Degrees", "{Word}"),
        *(
            "Degrees and {Word}",
            "Diplomas and Certificates",
            "Degrees held",
            "My {Word}",
            "My Studies",
            "Title and {Word}",
        ),
        *("Academic Degrees", "Higher Education", "Scholastic Record", "Diplomas", "Education / Studies", "Academics"),
    ),
    dates=(
        *("{year}", "{year}", "{start} {d} {year}", "{start} {d} {year}", "{start}{d}{year}", "graduated {year}"),
        *("{month} {start} {d} {month2} {year}", "{month} {year}", "{mm}/{start} {d} {mm2}/{year}", "{mm2}/{year}"),
        *("from {start} to {year}", "{start} to {year}", "expected {year}", "{year} (expected)", "since {year}"),
        *("{year} {d} present", "Graduated: {month2} {year}", "{start}/{year}", "{mm}.{start} {d} {mm2}.{year}"),
        *(
            "{start} {word} {year}",
            "{word} {year}",
            "({year})",
            "{year} {word}",
            "{year}, {word}",
            "{mm2}{sign}{year}",
            "{month} {start} {word} {month2} {year}",
        ),
        *("{start} {sign} {year}", "{mm}/{start} {d} {year}", "{start}{sign}{year}", "{word} {start} {word2} {year}"),
        *(
            "{month} {year} {d} present",
            "{dd} {month} {start} {d} {dd2} {month2} {year}",
            "{start} {d} {year}, 4 years",
        ),
    ),
    headings=(
        *("{h}", "{h}", "{H}", "{H}", "{h}:", "{H}:", "{h}\n{rule}", "{H}\n{rule}", "** {h} **", "| {h}", "{h} {rule}"),
        *(
            "{rule}\n{H}\n{rule}",
            "# {h}",
            "{sign} {h}",
            "{sign}{H}{sign2}",
            "{n}) {h}",
            "{sign} {h} {sign}",
            "{h} {sign}",
        ),
    ),
    separators=(", ", ", ", " | ", " - ", " – ", "; ", " · ", "   ", "\t", " — ", " / ", " • ", ",  "),
    bullets=("", "", "", "- ", "• ", "* ", "– ", "▪ "),
    dashes=("-", "–", "-", "–", "—"),
    composed=0.6,
    header=(
        "{person}\n{city}, {country}\n{email} | {phone}",
        "Curriculum Vitae\n\n{person}\n{phone}\n{email}",
        "{PERSON}\n{number} {family} Street, {city} {postcode}\nPhone: {phone}\nE-mail: {email}",
        "{person}, born {dd} {month} {birth} in {city}\n{email}, {phone}",
        "Name: {person}\nDate of birth: {dd}.{mm}.{birth}\nNationality: {country}\nMobile: {phone}",
        "CV of {person}\nUpdated {month} {recent}\n\n{email}",
        "{PERSON}\n{job}\n{phone} • {email} • {city}",
    ),
    experience=(
        "{job}{s}{company}{s}{dates}\n{b}{duty}\n{b}{duty2}",
        "{company}{s}{dates}\n{job}\n{b}{duty}",
        "{dates}{s}{job}\n{company}, {city}\n{duty}",
        "{dates}\t{job}, {company}",
        "{dates}\t{company}\n\t{job}\n\t{duty}",
        "{job}\n{company}\n{dates}\n{b}{duty}\n{b}{duty2}",
        "{b}{job} at {company} ({dates})",
        "{b}{dates}: {job}, {company}, {city}",
        "{company}\t{dates}\n{job}\t{city}\n{b}{duty}",
        "{job}, {other_institution}, {dates}\n{b}{duty}",
        "{other_institution}\n{job}\n{dates}",
        "{dates}{s}{other_institution}{s}{job}",
        "Position: {job}\nEmployer: {company}\nDates: {dates}",
        "From {start} to {end} I worked at {company} as a {job}.",
        "{other_institution}{s}{dates}\n{job}\n{b}{duty}",
        "{b}{other_institution}{s}{job}{s}{dates}",
        "{city}, {country}\n{other_institution}\n{job}, {dates}",
        "I was a {job} at {other_institution} until {end}.",
        "At {other_institution} I worked as a {job} in {end}.",
        "In {end} {other_institution} took me on as a {job}.",
        "{other_institution} hired me as a {job} ({dates}).",
        "{other_institution}, {city}, had me teach {subject} as a {job} until {end}.",
        "{company} made me a {job} in {end}.",
    ),
    work=(
        *("Experience", "Work Experience", "Employment", "Professional Experience", "Career", "Employment History"),
        *("Research Experience", "Positions", "Internships", "Teaching", "Work History", "Relevant Experience"),
        *(
            "{Word} Experience",
            "Work {Word}",
            "Professional {Word}",
            "Career {Word}",
            "Posts",
            "{Word}",
            "{Word} Career",
        ),
        *("Professional History", "Jobs and Internships", "Where I Worked", "Practical Experience", "Working Life"),
    ),
    work_dates=(
        *(
            "{start} {d} {end}",
            "{start} {d} present",
            "{month} {start} {d} {month2} {end}",
            "{mm}/{start} {d} {mm2}/{end}",
        ),
        *(
            "{end}",
            "since {start}",
            "summer {end}",
            "{start}{d}{end}",
            "{month} {start} {d} now",
            "from {start} to {end}",
        ),
        *("{start} {word} {end}", "{word} {end}", "({start} {d} {end})", "{end} {word}", "{start} {sign} {end}"),
        *("{month} {start} {word} {month2} {end}", "{start}{sign}{end}", "{word} {start} {word2} {end}"),
        *("{start} to {end}", "{mm}.{start} {d} {mm2}.{end}", "{dd} {month} {start} {d} {dd2} {month2} {end}"),
    ),
    others=(
        (
            ("Summary", "Profile", "About me", "Objective", "Personal Statement"),
            (
                "{job} with {n} years of experience in {skill} and {skill2}.",
                "Motivated graduate in {subject}, looking for a position as a {job} from {recent}.",
                "I am a {job} with a background in {subject}. Since {start} I have led teams of up to {n} people.",
                "Hard-working student of {subject} at {other_institution} who enjoys {skill}.",
            ),
        ),
        (
            ("Skills", "Technical Skills", "Key Skills", "Competences"),
            (
                "{b}{skill}, {skill2}, {skill3}",
                "{skill}{s}{skill2}{s}{skill3}",
                "{b}{skill}: {n} years",
                "Good knowledge of {skill} and {skill2}",
            ),
        ),
        (
            ("Languages", "Language Skills"),
            (
                "{b}{language} (fluent), {language2} (B{n})",
                "{language}: native\n{language2}: good",
                "{language}, {language2}",
            ),
        ),
        (
            ("Awards", "Honours and Awards", "Prizes", "Scholarships", "Honours", "Achievements", "{Word}"),
            (
                "{b}{prize}, {end}",
                "{end}{s}{prize}{s}{other_institution}",
                "{b}{prize} of the {other_institution} ({end})",
                "{b}{prize} ({other_institution}), {end}",
                "{end}\t{prize}",
            ),
        ),
        (
            (
                *("Courses", "Certificates", "Training", "Further Training", "Certifications", "Further Education"),
                *("Professional Education", "Workshops", "Executive Education", "{Word} Courses", "Seminars", "{Word}"),
            ),
            (
                "{b}{skill}, {company}, {end}",
                "{end}{s}Course in {skill}{s}{company}",
                "{b}Certificate in {skill} ({end})",
                "{end}\tSummer school on {subject}, {city}",
                "{skill} {word} at {other_institution}, {month} {end}",
                "{b}{word} at the {other_institution} ({end})",
                "{b}Online course: {subject}, {other_institution}, {end}",
                "{b}{skill} course, {other_institution}, {end}",
                "A day of {skill} at {other_institution} in {month} {end}",
            ),
        ),
        (
            ("Publications", "Selected Publications", "Papers"),
            (
                "{person} and {person2} ({end}). {thesis}. Journal of {subject}, {n}({n}), {number}-{number2}.",
                "{thesis}. {person}, {person2}. Proceedings of the {city} Conference on {subject}, {end}.",
            ),
        ),
        (
            ("References", "Referees", "Contacts", "{Word}"),
            (
                "{person}, {job}, {company}, {phone}",
                "Prof. {person}\nDepartment of {subject}\n{other_institution}\n{email}",
                "Dr. {person}, {other_institution}, {email}",
                "Available on request",
            ),
        ),
        (
            ("Volunteering", "Activities", "Interests", "Hobbies", "Memberships", "Projects", "{Word}"),
            (
                "{b}Member of the {subject} Society, {other_institution}, {start} {d} {end}",
                "{b}Volunteer, {company}, {end}",
                "{skill}, {skill2}, hiking",
                "{b}{thesis} ({end}): {duty}",
            ),
        ),
    ),
)

HELD_OUT = Layouts(
    education=(
        "{b}{institution}{s}{dates}{s}{degree}",
        "{b}{year} {d} {degree} ({institution}, {city})",
        "{b}{degree} {d} {grade} {d} {institution}{s}{dates}",
        "{b}{degree}; {institution}; {city}, {country}; {dates}",
        "{institution}, {city}, {country}\n{dates}{s}{degree}",
        "{dates}{s}{city}\n{degree}\n{institution}",
        "{degree}, {dates}\n{institution}\nFinal mark: {grade}",
        "{institution}\n{b}{degree}, {dates}\n{b}Dissertation on {thesis}",
        "{degree}\n{institution}, {city}, {country}\n{b}Completed {dates}\n{b}{grade}",
        "{city}, {country}\n{institution}\n{degree} ({dates})",
        "{dates}\t{degree}, {grade}\n\t{institution}\n\tTutor: {person}",
        "{degree}\t{grade}\t{institution}\t{dates}",
        "{institution}\t{dates}\t{degree}",
        "{dates}\t{city}\t{institution}\t{degree}",
        "School: {institution}\nPeriod: {dates}\nAward: {degree}\nResult: {grade}",
        "Title of qualification: {degree}\nCompleted: {dates}\nAwarded by: {institution}, {city}",
        "{institution} awarded me the {degree} in {year}.",
        "My {degree} was completed in {year} at {institution}, {city}, under {person}.",
        "{dates}\n{degree} {d} {institution}\n{b}{prize}\n{b}Specialised in {subject} and {subject2}",
        "{institution}, {dates}\n{degree}\n{grade}\nThesis: {thesis}",
    ),
    schooling=("Education & Degrees", "My Education", "Formal Education", "Degrees and Diplomas", "Academic Career"),
    dates=(
        *(
            "({start} to {year})",
            "{month} {start} until {month2} {year}",
            "completed {year}",
            "[{year}]",
            "{start} → {year}",
        ),
        *("{year}, full time", "{start} {d} {mm2}/{year}", "between {start} and {year}", "{mm2}-{year}", "due {year}"),
    ),
    headings=("[{h}]", "{H}  {rule}", ">> {h}", "~ {h} ~", "== {H} ==", "1. {h}"),
    separators=(" // ", " : ", ". ", " ~ ", " + ", "  |  "),
    bullets=("", "o ", "> ", "+ ", "◦ "),
    dashes=(" - ", "--", "–", "‒"),
    composed=0.0,
    header=(
        "Résumé\n{person} / {city}\n{email} / {phone}",
        "{person}\n{job} based in {city}\nT {phone}\nE {email}",
        "Personal data\nFirst and last name: {person}\nBorn: {month} {birth}, {city}\nContact: {email}, {phone}",
    ),
    experience=(
        "{b}{company}{s}{job}{s}{dates}\n{duty}",
        "{dates}\n{company}, {city}, {country}\n{job}: {duty}",
        "{job} ({company}), {dates}\n{b}{duty}\n{b}{duty2}\n{b}{skill}",
        "Role: {job}\nCompany: {company}\nPeriod: {dates}",
        "{dates}\t{city}\t{company}\t{job}",
        "{dates}\n{job} {d} {other_institution}\n{duty}",
        "{other_institution} employed me as a {job} in {end}.",
    ),
    work=("Professional Background", "Jobs", "Work", "Career to Date"),
    work_dates=(
        *(
            "({start} to {end})",
            "{month} {start} until {month2} {end}",
            "[{end}]",
            "{start} → {end}",
            "{start} {d} today",
        ),
    ),
    others=(
        (
            ("In Brief", "Who I Am"),
            (
                "{n} years as a {job}; now looking for new tasks in {skill}.",
                "After my studies of {subject} I joined {company} in {start} and have been a {job} ever since.",
            ),
        ),
        (("Toolbox", "What I Can Do"), ("{b}{skill} / {skill2}", "{skill} (since {start}), {skill2}, {skill3}")),
        (("Spoken Languages",), ("{b}{language}, mother tongue\n{b}{language2}, C1", "{language} + {language2}")),
        (("Distinctions", "Recognition"), ("{b}{end}: {prize} ({other_institution})", "{prize} {d} {end}")),
        (
            ("Continuing Education", "Short Courses"),
            ("{b}{end}{s}{skill}, run by {company}", "{skill} workshop at {other_institution}, {month} {end}"),
        ),
        (("Writing",), ("{person}, {end}: {thesis}, in: {subject} Letters {n}, p. {number}",)),
        (
            ("People to Ask",),
            ("{person} ({job} at {company}) {d} {email}", "{person}, {other_institution}, tel. {phone}"),
        ),
        (
            ("Beyond Work", "Free Time"),
            ("{b}Treasurer of a {skill} club in {city} ({start} {d} {end})", "{skill} and chess"),
        ),
    ),
)
