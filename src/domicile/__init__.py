"""domicile gives every user's data a home, moves it there live, keeps it there, and proves it."""

__version__ = "0.1.0"
