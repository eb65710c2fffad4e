"""A plugin of pytest's for mutants: that a test fails is enough, whatever its example is."""

from hypothesis import Phase, settings

settings.register_profile("quickly", phases=[Phase.explicit, Phase.generate])
settings.load_profile("quickly")
