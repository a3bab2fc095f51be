import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """What a training sets for its whole process: where its log goes, and torch's threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    logger = logging.getLogger("training")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
