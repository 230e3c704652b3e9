"""YAML: each key once, plain values, and text stays text. PyYAML's safe loader is the reference for plain values."""

import pytest
import yaml

from balancer.core.config import DEMO
from balancer.core.defaults import default_yaml
from balancer.core.yaml_reader import read_yaml

# Ten lists, each of nine times the one before.
BILLIONS = "[" + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(10)) + "]"


@pytest.mark.parametrize(
    "text",
    [
        default_yaml(),
        yaml.safe_dump(DEMO),
        "",
        "# a comment",
        "a: [1, -2, +3, 0, 1_000, 0x10, 1.5, .5, -2.e+3, 1e-4, .inf, ~, null, true, False, words, 'yes', \"no\"]",
        "base: &b {x: 1, y: 2}\nown: {<<: *b, x: 3}",
        "a: |\n  two\n  lines\nb: >\n  one\n  line\n",
    ],
)
def test_plain_values_are_those_of_the_safe_loader(text: str) -> None:
    assert read_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["yes", "No", "on", "off", "010", "1:30", "1:30.5", "2020-01-01", "0b11", "0o17", "="])
def test_what_yaml_1_1_takes_for_something_else_stays_text(text: str) -> None:
    assert read_yaml(f"a: {text}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3", "'a' stands twice, in line 1 and in line 3"),
        ("x:\n  a: 1\n  'a': 2", "'a' stands twice, in line 2 and in line 3"),
        ("{a: 1, b: {c: 1, c: 1}}", "'c'"),
        ("b: &b {x: 1}\nc: &c {y: 1}\nd:\n  <<: *b\n  <<: *c", "'<<'"),
        ("a: &a [1, *a]", "line 1"),
        ("a: &a\n  b: {c: *a}", "alias"),
        ("a: !!set {x}", "set"),
        ("a: !!binary aGk=", "binary"),
        ("a: !!python/name:os.system", "python"),
        ("a: !!int yes", "int"),
        ("a: \x00", "#x0000"),
        ("\ta: 1", "line 1"),
        ("a: 1\n---\na: 2", "document"),
        ("? [1]\n: 2", "unhashable"),
        ("[" * 500, "deeply"),
        ("a: " + "9" * 5000, "digits"),
        (
            "[0, " + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(9)) + "]",
            "values",
        ),
    ],
)
def test_faults_are_one_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        read_yaml(text)
    assert "\n" not in str(caught.value)
