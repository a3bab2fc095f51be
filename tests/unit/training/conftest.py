import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _restore_process_settings() -> Iterator[None]:
    """Restore what a training sets for its whole process: log handlers and torch's threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    logger = logging.getLogger("training")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
