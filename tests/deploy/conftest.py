from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.deploy.manifests import KUSTOMIZATIONS, Object, render


@pytest.fixture(scope="session", params=KUSTOMIZATIONS)
def manifests(request: pytest.FixtureRequest) -> Sequence[Object]:
    """All objects of one kustomization."""
    return render(request.param)
