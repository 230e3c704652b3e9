"""The matrix of faults: what was done to a command, and how the command must end.

To add a fault, add a row to one of the tables. A row names the command line, a function that arranges the fault, the
exit code, and words of the message: a file, a setting, a kind of error, not the sentence. Names in braces, in the
command line, are copies of what all rows share (:class:`fault.Place`), so a fault may change them.
"""

from table_data import DATA
from table_files import FILES
from table_machine import MACHINE
from table_settings import SETTINGS

FAULTS = [*MACHINE, *FILES, *DATA, *SETTINGS]
