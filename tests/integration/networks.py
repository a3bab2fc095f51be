"""ONNX networks of a few nodes with the tensors of the catalogue.

They recognise nothing, but shapes, types and batch items are exact, and the outputs are log-probabilities and unit
vectors as the health probe expects.
"""

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
    # The same for a window of a stream; adds the number of past frames, which the states carry.
    "body-realtime": """
        body (float16[b, 35, 80] features, int32[b] feature_lengths, float16[b, 1, 2, 128, 8] state_attention,
              float16[b, 1, 2, 8] state_convolution, int32[b, 1] state_frames)
            => (float16[b, 8, 8] encoder_out, int32[b] encoder_lengths,
                float16[b, 1, 2, 128, 8] next_state_attention, float16[b, 1, 2, 8] next_state_convolution,
                int32[b, 1] next_state_frames)
        <int64[2] from = {0, 0}, int64[2] to = {32, 8}, int64[2] axes = {1, 2}, int64[2] steps = {4, 1},
         int32[1] four = {4}, int32[1] chunk = {8}, int32[1] most = {128}, int64[1] last = {-1}>
        {
            current = Slice(features, from, to, axes, steps)
            past = Cast <to = 10> (state_frames)
            upright = Unsqueeze (past, last)
            encoder_out = Add (current, upright)
            encoder_lengths = Div(feature_lengths, four)
            next_state_attention = Identity (state_attention)
            next_state_convolution = Identity (state_convolution)
            more = Add (state_frames, chunk)
            next_state_frames = Min (more, most)
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

# The body after one matrix product for each frame of the request, so that the request decides how long it takes.
_SLOW_BODY = """
        body (float16[b, f, 80] features, int32[b] feature_lengths)
            => (float16[b, e, 8] encoder_out, int32[b] encoder_lengths)
        <int64[2] from = {0, 0}, int64[2] to = {100000, 8}, int64[2] axes = {1, 2}, int64[2] steps = {4, 1},
         int32[1] four = {4}, int64[2] size = {320, 320}>
        {
            encoder_out = Slice(features, from, to, axes, steps)
            longest = ReduceMax <keepdims = 0> (feature_lengths)
            count = Cast <to = 7> (longest)
            go = Constant <value = bool {1}> ()
            first = ConstantOfShape <value = float[1] {0.001}> (size)
            last = Loop <body = product (int64 index, bool on, float[320, 320] before)
                => (bool again, float[320, 320] after)
                {
                    again = Identity (on)
                    product = MatMul (before, before)
                    after = Tanh (product)
                }> (count, go, first)
            sum = ReduceSum <keepdims = 0> (last)
            nothing = Floor (sum)
            added = Cast <to = 6> (nothing)
            quarters = Div(feature_lengths, four)
            encoder_lengths = Add (quarters, added)
        }"""


def slow_body() -> bytes:
    """Return the ONNX file of a body whose requests take about a millisecond for each frame."""
    return _made(_SLOW_BODY)


def network(model: str, variant: str = "") -> bytes:
    """Return the ONNX file of a model such as `am_en_standard`; `variant` selects its graph for a step of a stream."""
    table = ", ".join(str(float(value)) for value in range(32))
    family = model.rpartition("_")[0]
    source = _SOURCES[f"{family}-{variant}" if variant else family].replace("TABLE", table)
    return _made(source)


def _made(source: str) -> bytes:
    made = onnx.parser.parse_model(_HEADER + source)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())
