"""tus' own Python client, as it comes, against the service as processes: cut off, and resumed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select
from tusclient import client as tus
from tusclient.exceptions import TusCommunicationError
from tusclient.uploader import Uploader

from jobs.parts import RESUMABLE_DIR
from models import JobStatus, ResumableUpload, TranscriptionJob
from tests.recordings import repeated, sample
from tests.stack.conftest import Stack, wait_for
from tests.wrapped import Cut, cutting

pytestmark = [pytest.mark.stack, pytest.mark.model]
