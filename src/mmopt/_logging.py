"""The package's logger; no handler and no level is set, that is the user's choice."""

import logging

logger = logging.getLogger("mmopt")
