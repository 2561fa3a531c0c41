"""Whether the server keeps what a create adds to a description."""

import logging

from vpsbackups_async import _tags
from vpsbackups_async._creating.creation import Creation
from vpsbackups_async.models import Backup

__all__ = ["warn_of_lost_tags"]

logger = logging.getLogger("vpsbackups_async")


def warn_of_lost_tags(creation: Creation, made: Backup) -> None:
    """Log if the server does not keep labels, or markers by which a create might be found."""
    if not _tags.keeps_labels(creation.description, made.description):
        logger.warning(
            "backup %s of server %s was made without the label that says what job it is of or "
            "that it is to be kept, for the server changes descriptions",
            made.id,
            made.server.id,
        )
    if _tags.same(_tags.marker_of(made.description), creation.marker) or not creation.marker:
        return
    if creation.need is not None and not creation.need.is_named(made.description):
        logger.warning(
            "backup %s of server %s was made with another description than was asked for, for "
            "the server changes descriptions: another process cannot tell what it is, and "
            "may make a second one there",
            made.id,
            made.server.id,
        )
    else:
        logger.warning(
            "backup %s of server %s was made without its marker, for the server changes "
            "descriptions: a marker makes nothing certain here",
            made.id,
            made.server.id,
        )
