"""What aiokafka's group coordinator takes for an answer, and what it lets a worker commit, made strict.

Two faults of aiokafka 0.14.0, each of which takes committed offsets back after an outage:

* the broker says that it cannot tell a group's offsets yet (it is loading them, or is not their coordinator any more)
  in a field of the whole answer, which aiokafka does not read: it takes the empty rest for "nothing was ever
  committed", and the worker begins at the earliest offset (as https://github.com/Parsely/pykafka/issues/958 did);
* a member whose session has ended goes on without a generation until it has joined again, and a commit without one is
  that of an administrator: a broker takes it as long as the group has no other member, whatever others committed since.
"""

from __future__ import annotations

from typing import Any

import structlog
from aiokafka import errors
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest

log = structlog.get_logger(__name__)

_COORDINATOR_MOVED = (errors.GroupCoordinatorNotAvailableError, errors.NotCoordinatorForGroupError)


def make_strict(consumer: Any) -> None:  # noqa: ANN401 - its private parts, which have no types
    """Let an AIOKafkaConsumer that has started wait for its group's offsets, and commit as a member of the group only.

    Afterwards `committed` is None only where nothing was committed, and `commit` raises CommitFailedError where the
    consumer is no member.
    """
    coordinator: Any = consumer._coordinator  # noqa: SLF001 - aiokafka is pinned
    send = coordinator._send_req  # noqa: SLF001

    async def send_strictly(request: Any) -> Any:  # noqa: ANN401 - as above
        no_member = coordinator.generation == OffsetCommitRequest.DEFAULT_GENERATION_ID
        if no_member and isinstance(request, OffsetCommitRequest):
            log.info("offsets.not_a_member", group=coordinator.group_id)
            raise errors.UnknownMemberIdError(coordinator.group_id)
        answer = await send(request)
        if isinstance(request, OffsetFetchRequest) and (code := getattr(answer, "error_code", 0)):
            error = errors.for_code(code)
            log.info("offsets.not_told", group=coordinator.group_id, reason=error.__name__)
            if error in _COORDINATOR_MOVED:
                coordinator.coordinator_dead()
            raise error(coordinator.group_id)
        return answer

    coordinator._send_req = send_strictly  # noqa: SLF001
