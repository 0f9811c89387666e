"""The intent store: what the platform asked for, kept in OVSDB."""

from novanet_apps.intent.settings import StoreError, StoreSettings
from novanet_apps.intent.store import IntentStore
from topology.admission import Refused, Write

__all__ = ["IntentStore", "Refused", "StoreError", "StoreSettings", "Write"]
