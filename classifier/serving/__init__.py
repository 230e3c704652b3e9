"""`classifier serve`: a page and a REST interface that show what saved classifiers say of an image."""

from importlib.util import find_spec

from balancer.core.errors import BalancerError
from balancer.core.extras import install

PACKAGES = {"fastapi": "FastAPI", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}  # by module


def require_packages() -> None:
    """Refuse to go on without the packages of the extra.

    Raises:
        BalancerError: if one is not installed.
    """
    if missing := [name for module, name in PACKAGES.items() if find_spec(module) is None]:
        raise BalancerError(f"`classifier serve` needs {', '.join(missing)}; run {install('serve')}")
