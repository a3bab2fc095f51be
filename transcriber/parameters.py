"""Read the parameters of a served model's configuration: what a client must know of its weights."""

import json
from collections.abc import Iterable, Mapping

from contract.errors import ServerContractError
from transcriber import ngram, search_weights
from transcriber.ngram import Ngram
from transcriber.search_weights import SearchWeights

SERVE_REMEDY = "Serve the models of this client's own release, or transcribe with the client of the server's release"
_EXPORT_REMEDY = (
    "Run `python -m export` and `python -m build.engines` again, and restart the server with the new engines"
)

Parameters = Mapping[str, str]


def token_list(parameters: Parameters, model: str) -> tuple[str, ...]:
    """Return the text of every token, from `tokens`; raise ServerContractError when it is missing or is not a list."""
    try:
        pieces = json.loads(parameters.get("tokens", ""))
    except json.JSONDecodeError:
        pieces = None
    if not isinstance(pieces, list) or not pieces or not all(isinstance(piece, str) for piece in pieces):
        raise ServerContractError(model, "its configuration has no parameter `tokens` with a JSON list", SERVE_REMEDY)
    return tuple(pieces)


def ngram_model(parameters: Parameters, tokens: int, model: str) -> Ngram | None:
    """Return the n-gram model from `ngram`, None when there is none.

    Raises ServerContractError when the parameter is damaged, or when its vocabulary is not that of the token list.
    """
    if "ngram" not in parameters:
        return None
    try:
        found = ngram.from_text(parameters["ngram"])
    except ValueError as error:
        cause = f"its parameter `ngram` holds no n-gram model ({error})"
        raise ServerContractError(model, cause, SERVE_REMEDY) from error
    if found.vocabulary != tokens:
        cause = f"its parameter `ngram` is of {found.vocabulary} tokens, and its parameter `tokens` of {tokens}"
        raise ServerContractError(model, cause, SERVE_REMEDY)
    return found


def weights_of_search(parameters: Parameters, rescorers: Iterable[str], model: str) -> SearchWeights:
    """Return the weights of the search and of the rescorers, from `search_weights`.

    Raises ServerContractError when the parameter is missing or damaged, or lacks a rescorer that is served.
    """
    if "search_weights" not in parameters:
        cause = "its configuration has no parameter `search_weights`: it was exported by an older release"
        raise ServerContractError(model, cause, _EXPORT_REMEDY)
    try:
        found = search_weights.from_json(parameters["search_weights"])
    except ValueError as error:
        cause = f"its parameter `search_weights` holds no weights of a search ({error})"
        raise ServerContractError(model, cause, _EXPORT_REMEDY) from error
    for family in rescorers:
        if family not in found.rescorers or family not in found.rescorers_with_ngram:
            cause = f"its parameter `search_weights` has no weight for {family}, which the server has"
            raise ServerContractError(model, cause, _EXPORT_REMEDY)
    return found


def same_speaker_similarity(parameters: Parameters, model: str) -> float:
    """Return the cosine above which two embeddings are of one speaker; raise ServerContractError when it is missing."""
    try:
        return float(parameters["same_speaker_similarity"])
    except (KeyError, ValueError) as error:
        cause = "its configuration has no parameter `same_speaker_similarity` with a number"
        raise ServerContractError(model, cause, SERVE_REMEDY) from error
