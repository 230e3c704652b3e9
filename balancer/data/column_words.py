"""The words by which columns and splits are known, in English, German, French and Spanish.

Words are plain: in lower case, without accents, and of letters and digits alone. Where a column could have several
roles, the order of the words decides.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

ROLES = {
    "path": (
        *("path", "filepath", "file", "filename", "image", "imagename", "imagepath", "imagefile", "imageindex"),
        *("imageid", "img", "imgpath", "imgname", "picture", "dicompath", "isicid", "relativepath"),
        *("datei", "dateiname", "dateipfad", "pfad", "bild", "bilddatei", "bildname", "aufnahme"),
        *("fichier", "nomfichier", "nomdufichier", "chemin", "cliche", "archivo", "fichero", "ruta", "imagen"),
    ),
    "label": (
        *("label", "labels", "class", "classname", "target", "diagnosis", "dx", "finding", "findings"),
        *("findinglabels", "category", "pathology", "disease"),
        *("diagnose", "befund", "klasse", "kategorie", "pathologie", "ergebnis", "krankheit", "etikett"),
        *("diagnostic", "classe", "categorie", "resultat", "maladie", "etiquette", "conclusion"),
        *("diagnostico", "clase", "categoria", "resultado", "patologia", "hallazgo", "enfermedad", "etiqueta"),
        *("result", "outcome", "groundtruth"),
    ),
    "patient": (
        *("patient", "patientid", "patientkey", "subject", "subjectid", "person", "personid", "participant"),
        *("participantid", "caseid", "lesionid"),
        *("patientno", "patientnr", "patientnumber", "patid", "patno", "patnr", "pid", "mrn", "medicalrecordnumber"),
        *("patientennummer", "patientennr", "patientenid", "patnummer", "proband", "probandennummer", "fallnummer"),
        *("identifiantpatient", "idpatient", "numeropatient", "numeropatiente", "npatient", "ipp", "sujet"),
        *("paciente", "idpaciente", "pacienteid", "numeropaciente", "nhc", "historiaclinica", "sujeto"),
    ),
    "split": (
        *("split", "partition", "subset", "splitname"),
        *("fold", "set", "dataset", "phase", "ensemble", "jeu", "conjunto", "particion", "datensatz", "teilmenge"),
        *("aufteilung", "menge"),
    ),
    "source": (
        *("source", "site", "hospital", "center", "centre", "institution", "manufacturer", "scanner", "device"),
        *("clinic", "origin"),
        *("department", "ward", "abteilung", "klinik", "krankenhaus", "standort", "station", "einrichtung", "praxis"),
        *("gerat", "geraet", "hersteller", "quelle", "zentrum", "etablissement", "hopital", "service", "appareil"),
        *("fabricant", "origine", "clinique", "centro", "servicio", "equipo", "fabricante", "clinica", "origen"),
    ),
}
EARLIER_SPLITS = ROLES["split"][:4]  # of these columns, a cell that is no split was always an error
# What a column says of a patient or a view, and does not tell the patient or the class.
ATTRIBUTES = (
    *("age", "alter", "edad", "sex", "gender", "geschlecht", "genre", "genero", "birth", "geburt", "naissance"),
    *("nacimiento", "weight", "gewicht", "poids", "peso", "size", "height", "position", "orientation", "view"),
    *("date", "datum", "fecha", "year", "jahr", "annee", "name", "nom", "nombre", "dose", "dosis", "laterality"),
)
SPLIT_WORDS = {
    "train": (
        *("train", "training", "trainset", "trainingset", "learning", "lernen", "entrainement", "apprentissage"),
        *("entrenamiento", "aprendizaje"),
    ),
    "val": ("val", "valid", "validation", "dev", "development", "validierung", "validacion", "tuning"),
    "test": ("test", "testing", "testset", "prufung", "pruefung", "testen", "prueba", "pruebas", "holdout"),
}
_SPLITS = {word: split for split, words in SPLIT_WORDS.items() for word in words}


def plain(name: str) -> str:
    """Return a name without case, accents and whatever is no letter and no digit.

    >>> plain("Pat.-Nr."), plain("Entraînement"), plain("Prüfung")
    ('patnr', 'entrainement', 'prufung')
    """
    letters = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in letters if c.isalnum())


def split_of(cell: str) -> str:
    """Return the split that a cell names; empty if the cell names none."""
    return _SPLITS.get(plain(cell), "")


def usual_columns(header: Sequence[str], role: str) -> list[int]:
    """Return the columns that have a usual name of a role, the likeliest first."""
    names = [plain(name) for name in header]
    return [i for word in ROLES[role] for i, name in enumerate(names) if name == word]


def find_column(header: Sequence[str], role: str) -> int | None:
    """Return the likeliest column of a role by its name alone; None if no name is usual."""
    return next(iter(usual_columns(header, role)), None)


def is_attribute(name: str) -> bool:
    """Return whether a column says something of a patient or a view that is neither a number nor a class."""
    text = plain(name)
    return any(text.endswith(word) or text.startswith(word) for word in ATTRIBUTES)
