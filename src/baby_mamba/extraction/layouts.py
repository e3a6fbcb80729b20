"""How CVs look: templates of their parts, in three collections, one to train on and two to test with.

In a template {institution}, {degree} and {year} stand for the values to be found, {dates} for one of the templates of
dates, {s}, {b} and {d} for the separator, bullet and dash that a CV has chosen, and all other names for values that are
not to be found. No template of an entry, of dates or of a heading to test with is one to train on, and the templates of
education differ in more than punctuation: in the order of the values or in what stands between them. The errors in CVs
of HELD_OUT were read while the generator was written; those in CVs of BLIND never were.
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
    composed: float  # share of the choices that are put together at random, see `composition`
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
        "{b}{degree}, {institution} ({dates})",
        "{b}{degree}, {institution}, {city}, {dates}",
        "{b}{institution}, {city}: {degree} ({dates})",
        "{b}{dates}: {degree}, {institution}, {city}",
        "{b}{degree} at {institution}, {dates}",
        "{b}{degree} from {institution}, {dates}",
        "{b}{dates}: {degree} ({grade}), {institution}",
        # on several
        "{degree}\n{institution}\n{dates}",
        "{degree}\n{institution}{s}{dates}",
        "{degree}\n{institution}, {city}\n{dates}",
        "{institution}{s}{city}\n{degree}{s}{dates}",
        "{institution}{s}{dates}\n{b}{degree}\n{b}{grade}",
        "{dates}\n{institution}\n{degree}\nThesis: {thesis}",
        "{dates}{s}{degree}\n{institution}",
        "{dates}  {institution}, {city}\n    {degree}\n    {grade}",
        "{degree}, {grade}\n{institution}, {dates}",
        "{b}{degree}\n  {institution}\n  {dates}\n  Supervisor: {person}",
        "{institution}, {city}{s}{dates}\n{degree}, {grade}\nModules: {subject}, {subject2}, {subject3}",
        "{city}, {country}\n{institution}\n{dates}\n{degree}",
        # tables
        "{dates}\t{degree}\t{institution}",
        "{institution}\t{degree}\t{dates}\t{grade}",
        "{dates}\t{degree}\n\t{institution}, {city}",
        "{institution}\t{dates}\n{degree}\t{city}",
        "{dates}\t{city}\t{degree}\t{institution}",
        # named values
        "Degree: {degree}\nInstitution: {institution}\nYear: {dates}",
        "University: {institution}\nDegree: {degree}\nDates: {dates}",
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
        *("School and University", "Educational History", "Schooling", "Where I Studied", "Diplomas and Certificates"),
        *("Academic Degrees", "Higher Education", "Scholastic Record", "Diplomas", "Academics", "{Word} Education"),
        *("Education {Word}", "Academic {Word}", "{Word}"),
    ),
    dates=(
        *("{year}", "{year}", "{start} {d} {year}", "{start} {d} {year}", "{start}{d}{year}", "{month} {year}"),
        *("{month} {start} {d} {month2} {year}", "{mm}/{start} {d} {mm2}/{year}", "{start} to {year}", "({year})"),
        *("expected {year}", "since {year}", "{year} {d} present", "Graduated: {month2} {year}", "{start}/{year}"),
        *("{month} {year} {d} present", "{start} {d} {year}, 4 years", "{start} {word} {year}", "{word} {year}"),
    ),
    headings=("{h}", "{h}", "{H}", "{H}", "{h}:", "{H}:", "{h}\n{rule}", "{H}\n{rule}", "** {h} **", "| {h}", "# {h}"),
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
        *("Research Experience", "Positions", "Internships", "Teaching", "Work History"),
        *("Relevant Experience", "Posts"),
        *("Professional History", "Jobs and Internships", "Where I Worked", "Practical Experience", "Working Life"),
        *("{Word} Experience", "Work {Word}", "Professional {Word}", "{Word}"),
    ),
    work_dates=(
        *("{start} {d} {end}", "{start} {d} present", "{month} {start} {d} {month2} {end}", "{end}", "since {start}"),
        *("{mm}/{start} {d} {mm2}/{end}", "summer {end}", "{start}{d}{end}", "{month} {start} {d} now", "({end})"),
        *("{start} to {end}", "{start} {word} {end}", "{word} {end}"),
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
        *("({start} to {year})", "{month} {start} until {month2} {year}", "completed {year}"),
        *("[{year}]", "{start} → {year}"),
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
        *("({start} to {end})", "{month} {start} until {month2} {end}", "[{end}]"),
        *("{start} → {end}", "{start} {d} today"),
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


BLIND = Layouts(
    education=(
        "{b}{institution} {d} {degree}{s}{dates}{s}{grade}",
        "{b}{city}{s}{dates}{s}{degree} at the {institution}",
        "{b}{degree} {d} {institution}, {country} {d} {dates}",
        "{b}{degree}, obtained in {year} from {institution} ({city})",
        "{institution} | {city}, {country}\n{degree} | {dates} | {grade}",
        "{degree}\n{b}Where: {institution}\n{b}When: {dates}\n{b}Result: {grade}",
        "{dates}\n{degree}, {subject2} track\n{institution}, {city}",
        "{institution}\n{city}, {country}\n{dates}\n{degree}\n{grade}",
        "{degree} ({grade})\n{institution} {d} {city}\n{dates}",
        "{dates}\n{city}\n{institution}\n{degree}\nSupervised by {person}",
        "{institution}\n{dates}\n{degree}\n{b}{thesis}\n{b}{prize}",
        "{institution}\t{city}\t{degree}\t{dates}",
        "{dates}\t{institution}\t{degree}, {grade}",
        "{degree}\n{institution}\t{dates}\n{city}, {country}\t{grade}",
        "Course: {degree}\nStudied at: {institution}\nFinished: {dates}\nMarks: {grade}",
        "Years: {dates}\nUniversity or school: {institution}, {city}\nFinal degree: {degree}",
        "In {city}, at {institution}, I took my {degree} ({year}).",
        "{person} supervised my {degree} at {institution}, {city} ({dates}).",
    ),
    schooling=("Studies & Training", "Education History", "Academic Record", "Academic Studies", "Where I Learned"),
    dates=(
        *("{start} through {year}", "{month2} {year} (graduation)", "{start}–'{mm2} {year}", "ended {year}"),
        *("{mm}/{start} to {mm2}/{year}", "{year} (two years)", "finished {month2} {year}", "years {start} to {year}"),
        *("{start} {d} {year} (part-time)", "{month} {start} to {month2} {year}"),
    ),
    headings=("{H} /", "<< {h} >>", "{rule}\n{h}\n{rule}", "I. {h}", "{h} ---", "§ {H}"),
    separators=(" * ", ", ", " / ", " -> ", " :: ", " · "),
    bullets=("", "-- ", "§ ", "→ ", "· "),
    dashes=(" – ", "-", "~", "—"),
    composed=0.0,
    header=(
        "{PERSON} | {job}\n{phone} | {email}",
        "Dr. {person}\nLives in {city}, {country}\nReach me at {email}",
        "{person}\n{number} {city} Road\n{email}\n\nNationality: {country}\nBorn {birth}",
    ),
    experience=(
        "{b}{job} {d} {company}, {city}{s}{dates}\n{duty}",
        "{company} ({dates})\n{b}{job}\n{b}{duty}",
        "{dates}\n{job}\n{company} {d} {city}, {country}\n{duty}",
        "{job}\t{company}\t{city}\t{dates}",
        "Title: {job}\nFirm: {company}, {city}\nYears: {dates}",
        "{other_institution} {d} {job}\n{dates}\n{b}{duty}\n{b}{duty2}",
        "In {end} I became a {job} with {other_institution}.",
        "{b}{dates}{s}{job} at the {other_institution}{s}{city}",
    ),
    work=("Employment Summary", "Experience in Industry", "Job History", "Work and Projects"),
    work_dates=(
        *("{start} through {end}", "{mm}/{start} to {mm2}/{end}", "{month} {start} to {month2} {end}", "ended {end}"),
        *("{start} {d} {end} (part-time)", "{start} to date"),
    ),
    others=(
        (
            ("At a Glance", "Introduction"),
            ("I have been a {job} for {n} years and care about {skill}.", "{subject} graduate; {job} since {start}."),
        ),
        (("Know-how", "Tools"), ("{b}{skill}{s}{skill2}{s}{skill3}", "{skill} ({n} years), {skill2} ({n} years)")),
        (("I Speak",), ("{language} {d} native, {language2} {d} B2", "{b}{language}\n{b}{language2}")),
        (("Honors and Grants", "Funding"), ("{b}{end} {d} {prize}, {other_institution}", "{prize}{s}{end}")),
        (
            ("Additional Training", "Licences"),
            ("{end} {d} {skill} seminar {d} {other_institution}", "{b}{skill}, certified by {company} in {end}"),
        ),
        (("Research Output",), ("{person}: {thesis}. {subject} Quarterly {n}, {end}.",)),
        (("Can Be Asked",), ("{person}{s}{other_institution}{s}{email}", "{person}, {job} at {company}, {phone}")),
        (("Off Duty", "Community"), ("{b}{skill} evenings in {city}, since {start}", "{b}{end}: coach, {company}")),
    ),
)
