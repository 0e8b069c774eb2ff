"""How far any routing is from the best possible.

What shapes kernels take: where one call from Python lasts milliseconds, named tuples of arrays
(`typing.NamedTuple`; numba knows them and keeps what it compiles on disk), chosen by meaning: the
problem as given, what is in hand, room to work in. They are documented, with shapes, in
`step._shapes` and `hindsight._shapes`. Numbers that do not change are fields of these tuples;
those that do are the named fields of one record, an array of length 1. Where a call lasts
microseconds (bounds of single steps, look-ups of partitions), arguments stay flat: to make and
unpack a tuple takes 2-10 µs.

A kernel that loops and calls other kernels counts references, at each call, to every array of the
tuples it is given and to every field it binds to a name. So innermost kernels are given no more
tuples than they read, and loops decide what they can before they call.

What is kept on disk knows the files of kernels, not those of tuples: after editing a tuple,
``make clean``.
"""
