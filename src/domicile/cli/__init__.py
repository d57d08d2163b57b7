"""Floor 5: the command line. Thin skins on ``commands``: they read options, ask, print, and choose the exit
code.
"""
