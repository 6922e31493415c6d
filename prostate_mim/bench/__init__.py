"""bench: one classifier on every engine of this machine, in one run, so that their times can be compared.

``engines`` says what is measured, ``rounds`` how, ``memory`` in processes of their own, ``record`` what comes out, and
``run`` puts them together. Nothing is imported here: a process that measures the memory of an engine without torch
must not load it.
"""
