"""Floor 2: the sites' logs of evidence, kept in their own databases; their keys, in files of this machine.

A phase adds a leaf in the transaction of its act (``Evidence.add``); ``checkpoints`` gives the leaves their places in
the tree, signs its root and has the other site cosign it; ``export`` reads a move's part of a log."""
