"""What is wrong with an installation, in one line each, and the command that mends it.

Only the standard library is imported here: what is examined may be missing, empty or broken, and may crash or hang when
it is imported. So packages are read through their metadata and files, and tried in child processes (``probe.py``).
"""
