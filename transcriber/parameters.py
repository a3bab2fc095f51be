"""Read what a client must know of a served model's weights, from the parameters of its configuration."""

from collections.abc import Mapping
from typing import TypeVar

from contract.catalogue import SPEAKER_WINDOWS, Family
from contract.client import PARAMETER, SEGMENTS, ClientSpec, SearchSpec, SpeakerSpec, TokenSpec
from contract.errors import ServerContractError
from transcriber import ngram
from transcriber.ngram import Ngram

SERVE_REMEDY = "Serve the models of this client's own release, or transcribe with the client of the server's release"
_EXPORT_REMEDY = (
    "Run `python -m export` and `python -m build.engines` again, and restart the server with the new engines"
)

Section = TypeVar("Section")


def client_spec(parameters: Mapping[str, str], model: str) -> ClientSpec:
    """Return what a client must know of a model, from the parameter `client`.

    Raises ServerContractError when it is missing or damaged.
    """
    if PARAMETER not in parameters:
        cause = f"its configuration has no parameter `{PARAMETER}`: it was exported by an older release"
        raise ServerContractError(model, cause, _EXPORT_REMEDY)
    return ClientSpec.from_json(parameters[PARAMETER], model, ServerContractError, SERVE_REMEDY)


def required(section: Section | None, name: str, model: str) -> Section:
    """Return a section of a ClientSpec; raise ServerContractError when the model lacks it."""
    if section is None:
        cause = f"its parameter `{PARAMETER}` has no section `{name}`"
        raise ServerContractError(model, cause, _EXPORT_REMEDY)
    return section


def ngram_model(search: SearchSpec, tokens: TokenSpec, model: str) -> Ngram | None:
    """Return the n-gram model of a search, None when there is none.

    Raises ServerContractError when it is damaged, or when it is not of the tokens.
    """
    if search.ngram is None:
        return None
    try:
        if search.words is not None:
            found = ngram.of_words(search.ngram, search.words, tokens)
        elif tokens.boundary is None:
            raise ValueError("its tokens have no boundary")
        else:
            found = ngram.from_text(search.ngram, tokens.boundary)
        found.check_tokens(tokens)
    except ValueError as error:
        cause = f"its parameter `{PARAMETER}` holds no n-gram model of its tokens ({error})"
        raise ServerContractError(model, cause, SERVE_REMEDY) from error
    return found


def check_rescorers(search: SearchSpec, roles: tuple[str, ...], model: str) -> None:
    """Raise ServerContractError when the search has no weight for a model that is served."""
    for role in roles:
        if role not in search.rescorers or role not in search.rescorers_with_ngram:
            cause = f"its parameter `{PARAMETER}` has no weight for the {role}, which the server has"
            raise ServerContractError(model, cause, _EXPORT_REMEDY)


def check_speaker(spec: SpeakerSpec, family: Family, model: str) -> None:
    """Raise ServerContractError when a speaker network's output has windows and its spec has not, or the reverse."""
    (shape,) = (tensor.shape for tensor in family.outputs)
    if (SPEAKER_WINDOWS in shape) != (spec.takes == SEGMENTS):
        axes = "1 axis" if len(shape) == 1 else f"{len(shape)} axes"
        cause = (
            f"its parameter `{PARAMETER}` has speaker.takes {spec.takes!r}, which does not fit an output "
            f"`{family.outputs[0].name}` with {axes}"
        )
        raise ServerContractError(model, cause, _EXPORT_REMEDY)
