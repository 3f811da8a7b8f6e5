"""How code that decides without a model asks one that only chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

Choose: TypeAlias = Callable[[str, Sequence[str]], str]
"""`choose(label, candidates)`: the one candidate that the model would write after the label. At least one is given."""

ChooserFor: TypeAlias = Callable[[Sequence[str]], Choose]
"""`chooser_for(lines)`: a Choose whose model has read the question and these lines, most important first."""

Count: TypeAlias = Callable[[str], int]
"""`count(text)`: the tokens it has."""
