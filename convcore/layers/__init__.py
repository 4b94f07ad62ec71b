"""Layers: what a small network is made of, each with a forward call and a ``backward``.

===============  ==================================================================
parameters.py    Parameter; Layer, the base of all: parameters, gradients, state
convolution.py   Conv2D, and Dense, which is a 1x1 correlation
pooling.py       MaxPool2D, AvgPool2D
activations.py   ReLU, Sigmoid
sequential.py    Sequential, and its summary
===============  ==================================================================

Correlations and pooling run on the backend in force, and nothing runs them in its place.  What is done
to every element by itself (an activation, a bias's sum with a division) is NumPy on the host.
"""

from convcore.layers.activations import ReLU, Sigmoid
from convcore.layers.convolution import Conv2D, Dense
from convcore.layers.parameters import Layer, Parameter
from convcore.layers.pooling import AvgPool2D, MaxPool2D
from convcore.layers.sequential import Sequential

__all__ = ["AvgPool2D", "Conv2D", "Dense", "Layer", "MaxPool2D", "Parameter", "ReLU", "Sequential", "Sigmoid"]
