"""What every part of a worker process is given."""

import threading
from dataclasses import dataclass, field

from shared.bell import Bell
from shared.database import Database
from shared.settings import Settings
from shared.storage.protocol import Storage
from worker.identity import Identity
from worker.serving import Serving


@dataclass(frozen=True)
class Runtime:
    """The process's connections and its state that several threads share.

    Attributes:
        stopping: Set once, when the process has been asked to end.
    """

    settings: Settings
    database: Database
    storage: Storage
    identity: Identity
    bell: Bell
    serving: Serving = field(default_factory=Serving)
    stopping: threading.Event = field(default_factory=threading.Event)
