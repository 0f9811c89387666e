"""Everything stands in setup.cfg; this file lets tools that look for a setup.py find one."""

from setuptools import setup

setup()
