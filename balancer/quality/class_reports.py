"""The page above the reports on the synthetic images of several classes: one line a class, with a link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from balancer.core.files import JsonObject, folder_name
from balancer.core.sealed import write_json
from balancer.data.manifest import REPORTS
from balancer.quality.grade import grade
from balancer.quality.interpretation import interpret, verdict
from balancer.quality.report import CAVEATS, Report
from balancer.reporting.document import Document, Link, Section, Table, part_notes
from balancer.reporting.grades import Grade
from balancer.reporting.links import documentation
from balancer.reporting.pages import write_document


@dataclass(frozen=True)
class ClassReports:
    """The reports on the synthetic images of several classes of one synthesis."""

    reports: dict[str, Report]  # by class
    generator: JsonObject  # facts on what made all of them
    links: Sequence[Link] = ()  # pages of the runs that the images came from

    @property
    def title(self) -> str:
        """Return how many images there are of how many classes."""
        n = sum(report.n for report in self.reports.values())
        return f"{n:,} synthetic images of {len(self.reports)} {'class' if len(self.reports) == 1 else 'classes'}"

    @property
    def grades(self) -> dict[str, Grade]:
        """Return the grade of each class."""
        return {name: grade(report.quality) for name, report in self.reports.items()}

    @property
    def verdict(self) -> str:
        """Return the verdict of each class."""
        return " ".join(f"{name}: {verdict(report.quality)}" for name, report in self.reports.items())

    def to_json(self) -> JsonObject:
        """Return the content of report.json: what is of all classes, and the verdict of each."""
        first = next(iter(self.reports.values()))
        classes = {
            name: {
                "n": report.n,
                "verdict": verdict(report.quality),
                "grade": {**self.grades[name].to_json(), "advice": report.advice},
                "interpretation": [asdict(finding) for finding in interpret(report.quality)],
                "report": f"{folder_of(name)}/report.json",
            }
            for name, report in self.reports.items()
        }
        shared = {"title": self.title, "n": sum(r.n for r in self.reports.values()), "seed": first.seed}
        quality = {"verdict": self.verdict, "interpretation": []}
        return {**shared, "data": first.data, "classes": classes, "quality": quality, **self.generator}

    def describe(self) -> str:
        """Return the verdict and a line per finding of each class, for the terminal."""
        return "\n".join([self.title, *(report.describe() for report in self.reports.values())])


def folder_of(name: str) -> str:
    """Return the folder of the report on a class, relative to the synthesis."""
    return f"{REPORTS}/{folder_name(name)}"


def publish_classes(folder: Path, reports: ClassReports) -> None:
    """Write report.json, report.md and report.html of all classes; the report on each class is there already."""
    write_json(folder / "report.json", reports.to_json())
    write_document(as_document(reports), folder, "report", {})


def as_document(reports: ClassReports) -> Document:
    """Return the page: a table of the classes, and links to the report on each."""
    links = [Link(f"report on {name}", f"{folder_of(name)}/report.html") for name in reports.reports]
    rows = [row for name, report in reports.reports.items() for row in _rows(name, report)]
    header = ["class", "images", "metric", "figure", "real against real", "meaning"]
    warnings, caveats = part_notes(next(iter(reports.reports.values())).data["notes"])
    return Document(
        reports.title,
        warnings,
        reports.verdict,
        [f"{name}: {sentence}" for name, report in reports.reports.items() for sentence in report.advice],
        grade=f"Grades: {'; '.join(f'{name} {of.brief}' for name, of in reports.grades.items())}.",
        alarm=any(of.is_unfit for of in reports.grades.values()),
        caveats=caveats,
        sections=[
            Section("Main figures of each class", table=Table(header, rows, words=True)),
            Section("Caveats", bullets=list(CAVEATS)),
        ],
        links=[*links, *reports.links, *documentation("gan")],
    )


def _rows(name: str, report: Report) -> Sequence[list[str]]:
    """Return a row per finding on a class; a class without any has a row as well."""
    findings = [[f.metric, f.figure, f.real_baseline, f.interpretation] for f in interpret(report.quality)]
    return [[name, f"{report.n:,}", *cells] for cells in findings or [["–", "–", "–", verdict(report.quality)]]]
