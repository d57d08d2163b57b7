"""Programs that set out to refute what domicile promises. Each says what it tried; found a fault, it exits 1."""
