"""What settings declare agrees with what the code behind them knows, and with what the papers and networks need."""

from regionstyle.nodes.app.local_model import tiny_settings
from regionstyle.nodes.engine.lora.init import LAYERS
from regionstyle.nodes.engine.settings.setting import settings_of
from regionstyle.nodes.engine.training.settings import TrainSettings
from regionstyle.nodes.grounding.settings import AttentionSettings, DetectorSettings, Finding, RefineSettings
from regionstyle.nodes.metrics.settings import RegionalStyleSettings
from regionstyle.nodes.router.settings import (
    CropSettings,
    ExpertSettings,
    GateSettings,
    NearestStyles,
    NoiseRange,
    RegionRouting,
    RestyleSettings,
)
from regionstyle.nodes.sms.generator.network import ARCHITECTURES
from regionstyle.nodes.sms.settings import ApplySettings, DistillSettings, Framing, SmsSettings, StyleStrength

DECLARED = (
    ApplySettings, AttentionSettings, CropSettings, DetectorSettings, DistillSettings, ExpertSettings, Finding, Framing,
    GateSettings, NearestStyles, NoiseRange, RefineSettings, RegionRouting, RegionalStyleSettings, RestyleSettings,
    SmsSettings, StyleStrength, TrainSettings,
)  # fmt: skip


def test_every_number_has_a_range_and_every_setting_a_help():
    for kind in DECLARED:
        for name, one in settings_of(kind).items():
            assert one.help.endswith("."), (kind, name)
            if one.kind in ("int", "float"):
                assert one.low is not None, (kind, name)
                assert one.high is not None, (kind, name)
                assert one.default is None or one.low <= one.default <= one.high, (kind, name)
            if one.kind == "choice":
                assert one.default in one.choices, (kind, name)


def test_choices_are_those_that_the_code_knows():
    assert set(settings_of(TrainSettings)["layers"].choices) == set(LAYERS)
    assert set(settings_of(DistillSettings)["architecture"].choices) == set(ARCHITECTURES)


def test_the_tiny_world_has_settings_of_its_own():
    """Its experts need few steps and no guidance, whatever suits SD1.5."""
    usual, own = RestyleSettings(), tiny_settings("mosaic", seed=3)
    assert (usual.strength, usual.steps, usual.cfg) == (0.6, 20, 7.0)
    assert (own.strength, own.steps, own.cfg, own.seed) == (0.38, 6, 1.0, 3)
    assert tiny_settings("gothic").strength == 0.3
