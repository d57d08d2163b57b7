"""Floor 4: the demo, a whole move on four embedded sites, with a check of its own at the end.

``story.run`` plays it. Nothing is imported here: faces show events and accounts without loading the engine.
"""
