"""What setup.cfg cannot say: the inner loops of Maglev tables and flow collectors are compiled. Without a compiler NovaNet is installed all the same."""

from pathlib import Path

from setuptools import Extension, setup

FAST = Path("novanet_apps/telemetry/collector/fast")

# libraries without Python's headers: pipelines/slots/filling.py and collector/fast load them with ctypes, or do without them
setup(
    ext_modules=[
        Extension("pipelines.slots._fill", ["pipelines/slots/fill.c"], extra_compile_args=["-O2"], optional=True),
        Extension(
            "novanet_apps.telemetry.collector.fast._fast",
            sorted(map(str, FAST.glob("*.c"))),
            depends=sorted(map(str, FAST.glob("*.h"))),
            extra_compile_args=["-O2"],
            optional=True,
        ),
    ]
)
