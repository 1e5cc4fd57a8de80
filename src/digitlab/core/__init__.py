"""Files, errors, signals, memory, ranks and exit codes. All other packages of digitlab
use them; they import none of these.
"""
