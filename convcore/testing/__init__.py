"""What the author of a backend tests with; public.

============  ====================================================================================
suite         the kit: every test, as one name to import
test_*        its tests: what a backend declares, values, laws, memory, conduct
plugin        the pytest plugin: ``--convcore-backend`` and its like
engine        a backend under test, and what is demanded of each single answer
exceptions    what a spec says that its backend may decline
problems      a fixed list of nasty problems, and data for them
strategies    Hypothesis strategies over the whole geometry
oracle        the reference: the formula, spelt out in the widest arithmetic
tolerance     the error allowed to a result, and the comparison
diagnosis     which fault a wrong result looks like
gradients     the adjoint identities, finite differences, second derivatives
public        a problem as the call that a user would write
processes     what is asked of a backend in other processes
devices       watching for data that travels between a device and the host
record        the figures behind a verdict
report        the verdict, as JSON and as a table
verdicts      the latest verdict on each backend
planted       backends with one fault each, which the kit must find
============  ====================================================================================
"""
