"""``novanet trace``: a packet's way over all hypervisors, from the flows that these have confirmed, with the names of objects."""

from pipelines.interpreter import NotInterpreted

from .names import Names
from .question import Question, Unanswerable
from .report import ARRIVES, Trace
from .switches import Unknown
from .tracer import trace

__all__ = ["ARRIVES", "Names", "NotInterpreted", "Question", "Trace", "Unanswerable", "Unknown", "trace"]
