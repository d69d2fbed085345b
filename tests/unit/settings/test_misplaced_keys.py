"""Keys of the config file that stand in the wrong table."""

import pytest

from batchrun.core.settings.misplaced_keys import key_meant, table_meant
from batchrun.core.settings.table import TABLE


@pytest.mark.parametrize("setting", [s for s in TABLE if s.key], ids=lambda s: s.name)
def test_a_key_outside_of_every_table_is_sent_to_its_own(setting):
    """Every key of the table of settings is known wherever it stands."""
    assert f"write `{setting.key}` below [" in table_meant(setting.key)


def test_a_parameter_is_sent_to_params():
    """What servers take as a parameter belongs below ``params``."""
    assert "params = { presence_penalty = ... }" in key_meant(
        "output", "presence_penalty", ["model"]
    )


def test_a_parameter_beside_params_has_its_flag_named():
    """In its own table the flag is named too, where there is one; elsewhere it is not the key."""
    assert "--temperature" in key_meant("request", "temperature", ["model"])
    found = key_meant("request", "min_p", ["model"])
    assert "`params`" in found and "--" not in found
    assert "`params`" not in key_meant("output", "temperature", ["dir"])
    assert key_meant("request", "modle", ["model"]) == "; did you mean model?"


def test_a_typing_error_is_answered_with_the_nearest():
    """A key that is nowhere is compared with those of its table."""
    assert key_meant("output", "modl", ["model", "prompt"]) == "; did you mean model?"
    assert key_meant("output", "zzz", ["model", "prompt"]) == "; known are model, prompt"
    assert key_meant("output", "base-url", ["base_url"]) == "; did you mean base_url?"
