"""Measured choices: where they are kept, and how they are made.

    choices.py   the user's file; a plan by what it says     trial.py    one candidate: right or not, and how long
    search.py    which candidates are tried, who wins        child.py    trials in a process that may be lost

A backend says what there is to choose (``Backend.candidates``) and makes a plan by it (``plan_with``).
Only choices.py is imported while nothing is measured.
"""
