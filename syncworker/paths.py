"""Where the project is on this machine."""

import os

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STATIC = os.path.join(PROJECT, "syncworker", "web", "static")  # the dashboard's files
