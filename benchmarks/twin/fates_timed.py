"""The fates of ``fates.py`` with networks that were fitted with the times of sampling; writes ``fates_timed.csv``.

``python fates_timed.py OUT r12 r16 ...``
"""

from functools import partial

from fates import SHOWN, collect, run

if __name__ == "__main__":
    collect(partial(run, time_key="time"), lambda found: found.groupby("mode")[SHOWN].mean())
