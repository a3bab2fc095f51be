"""Networks of a few nodes with the catalogue's tensors: wrong about speech, exact about shapes, types and
items, and their outputs are log-probabilities and unit vectors as the probe expects."""

import onnx
import onnx.parser

_HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
_SOURCES = {
    # Every fourth frame and its first eight bands; a quarter of each length.
    "body": """
        body (float16[b, f, 80] features, int32[b] feature_lengths)
            => (float16[b, e, 8] encoder_out, int32[b] encoder_lengths)
        <int64[2] from = {0, 0}, int64[2] to = {100000, 8}, int64[2] axes = {1, 2}, int64[2] steps = {4, 1},
         int32[1] four = {4}>
        {
            encoder_out = Slice(features, from, to, axes, steps)
            encoder_lengths = Div(feature_lengths, four)
        }""",
    "am_en": """
        am (float16[b, e, 8] encoder_out, int32[b] encoder_lengths)
            => (float[b, e, 4] top_log_probs, int32[b, e, 4] top_tokens)
        <int64[1] four = {4}>
        {
            wide = Cast <to = 1> (encoder_out)
            log_probs = LogSoftmax (wide)
            top_log_probs, places = TopK (log_probs, four)
            top_tokens = Cast <to = 6> (places)
        }""",
    # Minus the sum of a hypothesis's tokens, minus the item's length; a token above 31 is out of bounds.
    "decoder": """
        decoder (float16[b, e, 8] encoder_out, int32[b] encoder_lengths, int32[b, n, l] hypotheses,
                 int32[b, n] hypothesis_lengths) => (float[b, n] scores)
        <int64[1] last = {-1}, int64[2] column = {-1, 1}>
        {
            table = Constant <value = float[32] {TABLE}> ()
            values = Gather (table, hypotheses)
            sums = ReduceSum <keepdims = 0> (values, last)
            lengths = Cast <to = 1> (encoder_lengths)
            upright = Reshape (lengths, column)
            together = Add (sums, upright)
            scores = Neg (together)
        }""",
    "lm": """
        lm (int32[b, n, l] hypotheses, int32[b, n] hypothesis_lengths) => (float[b, n] scores)
        <int64[1] last = {-1}>
        {
            table = Constant <value = float[32] {TABLE}> ()
            values = Gather (table, hypotheses)
            sums = ReduceSum <keepdims = 0> (values, last)
            scores = Neg (sums)
        }""",
    "diar": """
        diar (float16[b, f, 80] features, int32[b] feature_lengths) => (float[b, 6] embedding)
        <int64[1] from = {0}, int64[1] to = {6}, int64[1] axes = {2}>
        {
            bands = Slice (features, from, to, axes)
            wide = Cast <to = 1> (bands)
            mean = ReduceMean <axes = [1], keepdims = 0> (wide)
            embedding = LpNormalization <axis = -1, p = 2> (mean)
        }""",
}


def network(model: str) -> bytes:
    """Make the ONNX file of a model such as `am_en_standard`."""
    table = ", ".join(str(float(value)) for value in range(32))
    source = _SOURCES[model.rpartition("_")[0]].replace("TABLE", table)
    made = onnx.parser.parse_model(_HEADER + source)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())
