"""Parameters as a file: what is written is read back, and what is wrong is named with its line."""

from typing import get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecore.errors import SpecError
from squeezecore.squeeze import SqueezeParams, params_from, read_params, write_params


def values_of(field: str) -> st.SearchStrategy:
    """Draw a value within a field's own bounds."""
    hint = get_type_hints(SqueezeParams, include_extras=True)[field]
    kind, meta = hint.__origin__, hint.__metadata__[0]
    if kind is int:
        return st.integers(meta.ge, meta.le)
    low = meta.gt if meta.ge is None else meta.ge
    return st.floats(low, meta.le, exclude_min=meta.ge is None)


CHANGED = st.fixed_dictionaries({}, optional={name: values_of(name) for name in SqueezeParams.__struct_fields__})


@settings(deadline=None, max_examples=50)
@given(changed=CHANGED)
def test_a_written_file_reads_back_to_the_same_hash(changed):
    params = params_from(changed)
    again = read_params(write_params(params))
    assert again == params
    assert again.hash == params.hash


def test_every_field_stands_in_the_file_below_its_meaning_bounds_and_default():
    lines = write_params(SqueezeParams(entry_score=5.5)).splitlines()
    for field in msgspec.structs.fields(SqueezeParams):
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{field.name} = "))
        assert lines[at - 1].startswith("# ")
        assert f"default {field.default}" in lines[at - 1]
        assert "<= " in lines[at - 1]
    assert "entry_score = 5.5" in lines


def test_a_field_that_is_left_out_has_its_default_and_a_whole_number_may_stand_for_a_float():
    assert read_params("entry_score = 5") == SqueezeParams(entry_score=5.0)
    assert read_params("") == SqueezeParams()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "entry_scor = 4",
            r"mine.toml line 1: field was 'entry_scor', which does not exist: did you mean entry_score\?",
        ),
        ("# a\n\nentry_score = 11.5", r"mine.toml line 3: entry_score was 11.5, it must be >= 0 and <= 10"),
        ("cooldown_s = 1.5", r"line 1: cooldown_s was 1.5, it must be a whole number"),
        ("entry_score = true", r"line 1: entry_score was True, it must be a number"),
        ('entry_score = "4"', r"line 1: entry_score was '4', it must be a number"),
        ("entry_score = nan", r"line 1: entry_score was nan, it must be"),
        ("divergence_min = 0", r"line 1: divergence_min was 0, it must be > 0 and <= 20"),
        ("imbalance_expires_s = 86400", r"it must be >= 1 and <= 21600"),
        ("entry_score 4", r"mine.toml was no TOML: .*line 1.*: a line is `field = number`"),
        ("entry_score = 1\nentry_score = 2", r"mine.toml was no TOML"),
    ],
)
def test_a_broken_file_is_refused_with_line_field_value_and_limit(text, message):
    with pytest.raises(SpecError, match=message):
        read_params(text, "mine.toml")


def test_an_unknown_name_from_elsewhere_is_refused_with_the_nearest():
    with pytest.raises(SpecError, match="did you mean entry_score"):
        params_from({"entryscore": 4})
