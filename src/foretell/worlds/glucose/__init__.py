"""Glucose in type 1 diabetes: virtual patients, a sensor, a pump, everyday life. For research; not a medical device."""

from foretell.worlds.glucose.behaviour import CHILDREN, HELD_OUT, TRAINING, BasalBolus, Options, logged
from foretell.worlds.glucose.environment import GlucoseEnv
from foretell.worlds.glucose.patients import Patients, names, patients
from foretell.worlds.glucose.risk import risk, shares
from foretell.worlds.glucose.sensor import Sensor
from foretell.worlds.glucose.simulator import Simulator
from foretell.worlds.glucose.ward import Habits, Ward

__all__ = [
    "CHILDREN",
    "HELD_OUT",
    "TRAINING",
    "BasalBolus",
    "GlucoseEnv",
    "Habits",
    "Options",
    "Patients",
    "Sensor",
    "Simulator",
    "Ward",
    "logged",
    "names",
    "patients",
    "risk",
    "shares",
]
