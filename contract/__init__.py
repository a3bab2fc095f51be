"""Define the records, names and file formats that all stages share; import none of the other packages.

Standard library only, but for signature.py (cryptography, when a key is used) and command_line.py (click).
"""
