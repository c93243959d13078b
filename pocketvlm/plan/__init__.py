"""Memory and time of a model on a phone, planned before any export: no PyTorch, no engine."""

from pocketvlm.plan.check import Check, check_device
from pocketvlm.plan.device import DEFAULT_DEVICE, Device, Published, device_names, load_device, published
from pocketvlm.plan.planning import SCHEMA, Plan, as_dict, make_plan
from pocketvlm.plan.source import read_model

__all__ = [
    "DEFAULT_DEVICE",
    "SCHEMA",
    "Check",
    "Device",
    "Plan",
    "Published",
    "as_dict",
    "check_device",
    "device_names",
    "load_device",
    "make_plan",
    "published",
    "read_model",
]
