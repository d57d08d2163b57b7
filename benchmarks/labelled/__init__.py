"""A labelled test set for the classification of columns: generated, the same for the same seed.

`tables` draws tables of a made-up world: what people's tables hold, by names of several languages and styles, and hard
negatives that look like it. `columns.tsv` beside it lists the columns with their labels, for review; the values are
drawn again from the seed.
"""
