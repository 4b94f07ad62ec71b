"""Backends compared with each other, and with what people use today; see README.md.

===============  =====================================================================
problem_set      layers of published networks and single images, ``problems/*.json``
peers            who is compared: a file each
case, check      one piece of work with its operands; the oracle every answer is held to
rounds           the round-robin driver and its statistics
host, driver     child processes that hold the contenders; what is measured in them
machine, peaks   what is measured on, and what it can do at most
results          records on disk, and when two files may be compared
command          ``convcore bench``
page, charts     the report, one self-contained HTML file
readme           the README's table and plot, from committed results
instructions     counted instructions, and the margin that guards them
cpu, opencl      tables of one engine against the peers it must beat
===============  =====================================================================
"""
