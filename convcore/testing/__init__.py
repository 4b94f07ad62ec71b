"""What the author of a backend tests with; public.

==============  ==================================================================
conformance     the kit: every demand on a backend, as one class to inherit from
problems        a fixed list of nasty problems, and data for them
strategies      Hypothesis strategies over the whole geometry
oracle          the reference: the formula, spelt out in the widest arithmetic
tolerance       the error allowed to a result, and the comparison
gradients       the adjoint identities, and finite differences
engine          a backend under test, and what is demanded of each single answer
planted         backends with one fault each, which the kit must find
plugin          the pytest plugin: ``--convcore-backend``
==============  ==================================================================
"""
