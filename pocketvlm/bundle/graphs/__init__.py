"""Which ONNX graphs a bundle may have: those of a grammar that is read off what exports write, and none else.

ONNX Runtime trusts graphs: it opens whatever file a tensor names, runs functions and loops, folds constants of any
size, and divides by attributes. So a stranger's graph is read here first, without an engine. ``wire`` reads its
protobuf, and refuses a field that no export writes; ``grammar.json`` says which operators there are, with their
attributes, types and shapes (``table``); ``check`` follows the values through the nodes: ``declared`` for what the
graph says of them, ``forms`` for what a node takes, ``shapes`` for what it gives. The native runner takes the same
steps on the same table (android_app/runner/source/graph_*.cpp), and refuses in the same words.
"""

from __future__ import annotations

from pocketvlm.bundle.graphs.check import check_graph, operators
from pocketvlm.bundle.graphs.wire import GraphError

__all__ = ["GraphError", "check_graph", "operators"]
