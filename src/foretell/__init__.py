"""foretell: JEPA world models that predict, plan and say when not to be trusted."""

__version__ = "0.1.0"
