"""What setup.cfg cannot say: the inner loop of Maglev tables is compiled. Without a compiler NovaNet is installed all the same."""

from setuptools import Extension, setup

# a library without Python's headers: pipelines/slots/filling.py loads it with ctypes, or does without it
setup(
    ext_modules=[
        Extension("pipelines.slots._fill", ["pipelines/slots/fill.c"], extra_compile_args=["-O2"], optional=True)
    ]
)
