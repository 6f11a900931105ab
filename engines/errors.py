"""Every error that `engines` raises; a leaf, imported by both packages.

EngineError(code)
├ ManifestInvalid     manifest.json is missing, malformed, or of a schema this version does not know
├ ReleaseCorrupt      a file of the release is missing, or its SHA-256 is not the manifest's
├ EngineUnavailable   the runtime cannot load the model on this machine
│ └ PlanMissing       there is no TensorRT plan for this GPU, or none that is whole
├ ReleaseUnavailable  the store of releases does not answer, or has no such release
├ ReleaseRefused      it loads, and does not answer as it did where it was made (see its codes)
├ GraphUnsupported    TensorRT cannot build the graph
├ InferenceFailed     the runtime raised, or returned something that is not one finite logit per pair
├ ImageRefused        these bytes are not an image that we accept (see its codes)
├ TextRefused         there is nothing in the text to compare a picture with
├ CatalogInvalid      a catalogue folder or feed cannot be read
├ DiskTooSmall        what is about to be written has no room
├ LabelsInvalid       a folder of pinned labels cannot be read, or there is too little in it
├ ReleaseNotRestorable  a release cannot be made a model again that training goes on from
├ TrainingEnded       a process that trained was killed, or failed in a way that nobody expected
└ ParityExceeded      an exported model does not reproduce its source within tolerance

`code` is a stable slug: the metric label, the dead letter's reason and the log field.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all; carries a stable `code` beside the words for people."""

    code: str = "engine_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ManifestInvalid(EngineError):
    """`manifest.json` is missing, malformed, or of an unknown schema."""

    code = "manifest_invalid"


class ReleaseCorrupt(EngineError):
    """A file of the release is missing or altered."""

    code = "release_corrupt"


class ReleaseUnavailable(EngineError):
    """Codes: release_unavailable (the store does not answer: try again), release_unknown (it has no such release)."""

    code = "release_unavailable"


class ReleaseRefused(EngineError):
    """Codes: golden_mismatch, tokenizer_mismatch, golden_invalid, release_incompatible, decoders_not_started."""

    code = "golden_mismatch"


class EngineUnavailable(EngineError):
    """The runtime cannot load the model on this machine."""

    code = "engine_unavailable"


class PlanMissing(EngineUnavailable):
    """There is no TensorRT plan of the release for this GPU, or none that is whole."""

    code = "plan_missing"


class GraphUnsupported(EngineError):
    """TensorRT cannot build the graph."""

    code = "graph_unsupported"


class InferenceFailed(EngineError):
    """The runtime raised, or returned a logit that is not finite."""

    code = "inference_failed"


class ImageRefused(EngineError):
    """Codes: image_malformed, image_truncated, image_too_large (pixels), image_unsupported (format or mode)."""

    code = "image_malformed"


class TextRefused(EngineError):
    """There is nothing in the text to compare a picture with."""

    code = "text_empty"


class CatalogInvalid(EngineError):
    """A catalogue folder or feed cannot be read."""

    code = "catalog_invalid"


class DiskTooSmall(EngineError):
    """What is about to be written has no room on its disk."""

    code = "disk_too_small"


class LabelsInvalid(EngineError):
    """Codes: labels_invalid (the folder cannot be read), labels_too_few (nothing could be shown with so few)."""

    code = "labels_invalid"


class ReleaseNotRestorable(EngineError):
    """A release cannot be made a model again that training goes on from."""

    code = "release_not_restorable"


class TrainingEnded(EngineError):
    """A process that trained ended before its time: nothing is known of what was trained, and the run can go on."""

    code = "training_ended"


class ParityExceeded(EngineError):
    """An exported model does not reproduce its source within tolerance."""

    code = "parity_exceeded"
